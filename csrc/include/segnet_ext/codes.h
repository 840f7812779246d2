// The codes of a 2x2, stride-2 max pool: for each window and channel the winner's place, in two bits.
//
// code = 2 * row + col, inside the window. Four channels share a byte: channel c lies in bits 2 * (c % 4) of byte c / 4
// of a uint8 tensor [N, OH, OW, ceil(C / 4)]; the bits of channels past C are zero.
#pragma once

#include <cstdint>

#include "segnet_ext/elementwise.h"
#include "segnet_ext/macros.h"

namespace segnet_ext {

constexpr int64_t kCodesPerByte = 4;

SEGNET_HOST_DEVICE int64_t codes_bytes(int64_t channels) {
  return (channels + kCodesPerByte - 1) / kCodesPerByte;
}

SEGNET_HOST_DEVICE int get_code(const uint8_t* bytes, int64_t channel) {
  return (bytes[channel / kCodesPerByte] >> (2 * (channel % kCodesPerByte))) & 3;
}

// Four codes, one in each byte of `word` (channel c in byte c, little endian), to one byte, and back.
SEGNET_HOST_DEVICE uint8_t pack_codes(uint32_t word) {
  return static_cast<uint8_t>(word | (word >> 6) | (word >> 12) | (word >> 18));
}
SEGNET_HOST_DEVICE uint32_t unpack_codes(uint32_t byte) {
  return (byte | (byte << 6) | (byte << 12) | (byte << 18)) & 0x03030303u;
}

// A window at a ragged edge has one row or one column only. Which bits of a code such a window keeps: a code that
// points past the edge is moved back to the last row or column that there is, so no code can address memory outside the
// map.
SEGNET_HOST_DEVICE int code_mask(int64_t rows_in_window, int64_t cols_in_window) {
  return (rows_in_window > 1 ? 2 : 0) | (cols_in_window > 1 ? 1 : 0);
}

// The same for up to sixteen codes, two bits each.
SEGNET_HOST_DEVICE uint32_t clip_codes(uint32_t codes, int rows_in_window, int cols_in_window) {
  return codes & (static_cast<uint32_t>(code_mask(rows_in_window, cols_in_window)) * 0x55555555u);
}

// How many of a window's two rows (or columns) lie inside a map of this size.
SEGNET_HOST_DEVICE int64_t window_extent(int64_t pooled, int64_t size) {
  return size - 2 * pooled < 2 ? 1 : 2;
}

// torch's flat index, in a plane of that width, of the winner that a code names.
SEGNET_HOST_DEVICE int64_t code_to_index(int code, int64_t pooled_row, int64_t pooled_col, int64_t width) {
  return 2 * pooled_row * width + 2 * pooled_col + code_to_offset<int64_t>(code, width);
}

// The code of the winner at a flat index, and -1 where that is not in the window.
SEGNET_HOST_DEVICE int index_to_code(int64_t index, int64_t pooled_row, int64_t pooled_col, int64_t rows_in_window,
                                     int64_t cols_in_window, int64_t width) {
  const uint64_t offset =
      static_cast<uint64_t>(index) - static_cast<uint64_t>(code_to_index(0, pooled_row, pooled_col, width));
  return static_cast<int>(static_cast<int64_t>(offset_to_code(offset, rows_in_window, cols_in_window, width)));
}

// Extent of the pooled map; floor mode leaves an odd last row or column out, ceil mode gives it a window of its own.
SEGNET_HOST_DEVICE int64_t pooled_size(int64_t size, bool ceil_mode) {
  return (size + (ceil_mode ? 1 : 0)) / 2;
}

}  // namespace segnet_ext
