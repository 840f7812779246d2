// Compiled once for each SIMD level by foreach_level.h.
#include "common/pool.inl"

namespace max_pool2d_with_codes {

using segnet_ext::max_pool2d_with_codes::BackwardParams;
using segnet_ext::max_pool2d_with_codes::ForwardParams;

struct Forward {
  template <class scalar_t>
  static void run(const ForwardParams& p, int64_t begin, int64_t end) {
    pool_rows(
        p.shape, static_cast<const scalar_t*>(p.input), static_cast<scalar_t*>(p.output), p.codes, begin, end,
        [](auto value, int64_t, auto) { return value; }, [](auto value) { return value; });
  }
};

struct Backward {
  // One pass over grad_input: a window's winner gets the gradient, the rest zero.
  template <class scalar_t>
  static void run(const BackwardParams& p, int64_t begin, int64_t end) {
    using acc_t = acc_type<scalar_t>;
    const int64_t channels = p.shape.channels;
    const auto* grad_output = static_cast<const scalar_t*>(p.grad_output);
    auto* grad_input = static_cast<scalar_t*>(p.grad_input);
    const bool past_caches =
        streams(grad_input, p.shape.pixels(), channels * sizeof(scalar_t), kLanesOf<acc_t> * sizeof(scalar_t));

    const auto window = [&](const Window& w) {
      for_lanes<acc_t>(channels, [&](int64_t c, auto lanes) {
        constexpr int kLanes = decltype(lanes)::value;
        prefetch_written_windows<kLanes>(grad_input + w.offset, w.row_step, c, past_caches);
        const auto grad = load<kLanes>(grad_output + w.index * channels + c);
        const auto code = load_codes<acc_t, kLanes>(p.codes + w.index * codes_bytes(channels), c, w.rows, w.cols);
        for (int place = 3; place >= 0; --place) {
          const auto wins = code == code_lanes<acc_t, kLanes>(place);
          store<kLanes>(grad_input + w.element(place) + c, wins ? grad : Vec<acc_t, kLanes>{}, past_caches);
        }
      });
    };
    const auto outside = [&](int64_t offset) { __builtin_memset(grad_input + offset, 0, channels * sizeof(scalar_t)); };
    for_each_window(p.shape, begin, end, window, outside);
    stream_fence();
  }
};

}  // namespace max_pool2d_with_codes
