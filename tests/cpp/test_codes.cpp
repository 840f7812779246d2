// Packing of codes, and the two conversions between codes and torch's indices, on any bytes and any integers.
#include <algorithm>
#include <limits>

#include "codes_to_indices/codes_to_indices_cpu_kernel.h"
#include "indices_to_codes/indices_to_codes_cpu_kernel.h"
#include "testing.h"

using namespace segnet_ext;
using namespace segnet_ext::testing;

namespace {

void packing() {
  for (uint32_t byte = 0; byte < 256; ++byte) {
    const auto packed = static_cast<uint8_t>(byte);
    const uint32_t word = unpack_codes(byte);
    CHECK(pack_codes(word) == byte, "byte %u", byte);
    for (int c = 0; c < 4; ++c) {
      CHECK((word >> 8 * c & 255) == (byte >> 2 * c & 3), "byte %u, channel %d", byte, c);
      CHECK(get_code(&packed, c) == static_cast<int>(byte >> 2 * c & 3), "byte %u, channel %d", byte, c);
    }
  }
  const int64_t bytes[] = {0, 1, 1, 1, 1, 2, 2, 2, 2, 3};
  for (int64_t channels = 0; channels < 10; ++channels) {
    CHECK(codes_bytes(channels) == bytes[channels], "%lld channels", static_cast<long long>(channels));
  }
}

void conversions(Random& random) {
  const bool ceil_mode = draw(random, 0, 1) == 1;
  const int64_t smallest = ceil_mode ? 1 : 2;
  PoolShape s{};
  s.batch = draw(random, 1, 2);
  s.channels = draw(random, 1, 19);
  s.height = draw(random, smallest, 9);
  s.width = draw(random, smallest, 9);
  s.pooled_height = pooled_size(s.height, ceil_mode);
  s.pooled_width = pooled_size(s.width, ceil_mode);
  const int64_t windows = s.pooled_rows() * s.pooled_width, bytes = codes_bytes(s.channels);
  const auto codes = random_bytes(windows * bytes, random);
  Buffer<int64_t> indices(windows * s.channels);
  codes_to_indices_impl::run(s, codes.data(), indices.data(), 0, s.pooled_rows());

  for (int64_t window = 0; window < windows; ++window) {
    const int64_t ow = window % s.pooled_width, oh = window / s.pooled_width % s.pooled_height;
    for (int64_t c = 0; c < s.channels; ++c) {
      int64_t row, col;
      winner_of(codes.data() + window * bytes, c, oh, ow, s.height, s.width, row, col);
      CHECK(indices[window * s.channels + c] == row * s.width + col, "window %lld", static_cast<long long>(window));
    }
  }

  Buffer<uint8_t> back(windows * bytes);
  CHECK(indices_to_codes_impl::run(s, indices.data(), back.data(), 0, s.pooled_rows()), "indices of codes are valid");
  Buffer<int64_t> again(windows * s.channels);
  codes_to_indices_impl::run(s, back.data(), again.data(), 0, s.pooled_rows());
  CHECK(again.same_bytes(indices), "codes do not survive the way to indices and back");

  // One index anywhere, of any size, is refused unless it lies inside its window.
  const int64_t at = draw(random, 0, indices.size() - 1);
  const int64_t ow = at / s.channels % s.pooled_width, oh = at / s.channels / s.pooled_width % s.pooled_height;
  const int64_t candidates[] = {-1,
                                std::numeric_limits<int64_t>::min(),
                                std::numeric_limits<int64_t>::max(),
                                s.height * s.width,
                                draw(random, 0, s.height * s.width - 1),
                                draw(random, std::numeric_limits<int64_t>::min(), std::numeric_limits<int64_t>::max())};
  for (const int64_t index : candidates) {
    indices[at] = index;
    const bool inside =
        index >= 0 && index < s.height * s.width && index / s.width / 2 == oh && index % s.width / 2 == ow;
    CHECK(indices_to_codes_impl::run(s, indices.data(), back.data(), 0, s.pooled_rows()) == inside, "index %lld",
          static_cast<long long>(index));
  }
}

void test() {
  packing();
  Random random(1);
  for (int i = 0; i < 500; ++i) {
    conversions(random);
  }
}

}  // namespace

int main() {
  return at_every_level(test);
}
