#pragma once

namespace segnet_ext {

// May float32 convolutions be computed in tf32? torch's own switch for those of cuDNN
// (torch.backends.cudnn.conv.fp32_precision, or allow_tf32 before torch 2.9).
bool allow_tf32();

}  // namespace segnet_ext
