// A thin vector type over the compiler's own vector extension: arithmetic, comparison and `mask ? a : b` come with it.
// Included by foreach_level.h inside each level's namespace, hence no include guard.

template <class T, int kLanes>
struct VecOf {
  typedef T type __attribute__((vector_size(kLanes * sizeof(T))));
};
template <class T, int kLanes>
using Vec = typename VecOf<T, kLanes>::type;

// Lanes of the widest vector of T at this level.
template <class T>
constexpr int kLanesOf = SEGNET_SIMD_BYTES / sizeof(T);

// The integer that a comparison of T gives, lane by lane.
template <class T>
struct MaskOf {
  using type = int32_t;
};
template <>
struct MaskOf<double> {
  using type = int64_t;
};
template <class T>
using mask_type = typename MaskOf<T>::type;

template <class T, int kLanes>
SEGNET_INLINE Vec<T, kLanes> broadcast(T value) {
  return value - Vec<T, kLanes>{};
}

template <class V, class T>
SEGNET_INLINE V load_raw(const T* from) {
  V v;
  __builtin_memcpy(&v, from, sizeof(V));
  return v;
}
template <class V, class T>
SEGNET_INLINE void store_raw(T* to, V v) {
  __builtin_memcpy(to, &v, sizeof(V));
}
template <class To, class From>
SEGNET_INLINE To bit_cast(From from) {
  static_assert(sizeof(To) == sizeof(From), "bit_cast keeps the size");
  To to;
  __builtin_memcpy(&to, &from, sizeof(To));
  return to;
}

// bfloat16 is the upper half of a float; to it: round to nearest even, NaN kept quiet.
template <int kLanes>
SEGNET_INLINE Vec<float, kLanes> to_float(Vec<uint16_t, kLanes> bits, bfloat16) {
  return bit_cast<Vec<float, kLanes>>(__builtin_convertvector(bits, Vec<uint32_t, kLanes>) << 16);
}
template <int kLanes>
SEGNET_INLINE Vec<uint16_t, kLanes> from_float(Vec<float, kLanes> value, bfloat16) {
  using U = Vec<uint32_t, kLanes>;
  const U bits = bit_cast<U>(value);
  const U rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
  const U quiet = (bits >> 16) | 0x40u;
  return __builtin_convertvector(value != value ? quiet : rounded, Vec<uint16_t, kLanes>);
}

// Of AVX-512's operands.
constexpr int kCurrentRounding = 4;

// IEEE half, by the processor's instructions. They convert four lanes at least; of fewer, the others are idle.
#if SEGNET_SIMD_HALVES && defined(__clang__)
template <int kLanes>
SEGNET_INLINE Vec<float, kLanes> to_float(Vec<uint16_t, kLanes> bits, half) {
  return __builtin_convertvector(bit_cast<Vec<_Float16, kLanes>>(bits), Vec<float, kLanes>);
}
template <int kLanes>
SEGNET_INLINE Vec<uint16_t, kLanes> from_float(Vec<float, kLanes> value, half) {
  return bit_cast<Vec<uint16_t, kLanes>>(__builtin_convertvector(value, Vec<_Float16, kLanes>));
}
#elif SEGNET_SIMD_HALVES
template <int kLanes>
SEGNET_INLINE Vec<float, kLanes> to_float(Vec<uint16_t, kLanes> bits, half) {
  if constexpr (kLanes == 16) {
    return __builtin_ia32_vcvtph2ps512_mask(bit_cast<Vec<int16_t, 16>>(bits), Vec<float, 16>{}, -1, kCurrentRounding);
  } else {
    static_assert(kLanes <= 8, "no such vectors");
    Vec<int16_t, 8> eight{};
    __builtin_memcpy(&eight, &bits, sizeof(bits));
    if constexpr (kLanes == 8) {
      return __builtin_ia32_vcvtph2ps256(eight);
    } else {
      const Vec<float, 4> four = __builtin_ia32_vcvtph2ps(eight);
      return load_raw<Vec<float, kLanes>>(&four);
    }
  }
}
template <int kLanes>
SEGNET_INLINE Vec<uint16_t, kLanes> from_float(Vec<float, kLanes> value, half) {
  constexpr int kToNearestEven = 0;
  if constexpr (kLanes == 16) {
    return bit_cast<Vec<uint16_t, 16>>(__builtin_ia32_vcvtps2ph512_mask(value, kToNearestEven, Vec<int16_t, 16>{}, -1));
  } else if constexpr (kLanes == 8) {
    return bit_cast<Vec<uint16_t, 8>>(__builtin_ia32_vcvtps2ph256(value, kToNearestEven));
  } else {
    Vec<float, 4> four{};
    __builtin_memcpy(&four, &value, sizeof(value));
    const Vec<int16_t, 8> eight = __builtin_ia32_vcvtps2ph(four, kToNearestEven);
    return load_raw<Vec<uint16_t, kLanes>>(&eight);
  }
}
#else
// The same by arithmetic. The exponent is re-biased by an integer addition; a subnormal half is normalised by a float
// subtraction, and made (with the right rounding) by a float addition that leaves its bits at the bottom of the
// mantissa.
template <int kLanes>
SEGNET_INLINE Vec<float, kLanes> to_float(Vec<uint16_t, kLanes> bits, half) {
  using U = Vec<uint32_t, kLanes>;
  using F = Vec<float, kLanes>;
  const U h = __builtin_convertvector(bits, U);
  const U magnitude = (h & 0x7fffu) << 13;
  const U normal = magnitude + (112u << 23);
  const U special = magnitude + (224u << 23);  // infinity and NaN: exponent 31 to 255
  const U zero = U{};
  const U smallest_normal = zero + (113u << 23);
  const U subnormal = bit_cast<U>(bit_cast<F>(magnitude + (113u << 23)) - bit_cast<F>(smallest_normal));
  const U finite = magnitude < (1u << 23) ? subnormal : normal;
  const U result = magnitude >= (31u << 23) ? special : finite;
  return bit_cast<F>(result | ((h & 0x8000u) << 16));
}
template <int kLanes>
SEGNET_INLINE Vec<uint16_t, kLanes> from_float(Vec<float, kLanes> value, half) {
  using U = Vec<uint32_t, kLanes>;
  using F = Vec<float, kLanes>;
  const U bits = bit_cast<U>(value);
  const U magnitude = bits & 0x7fffffffu;
  const U zero = U{};
  const U half_bits = zero + 0x3f000000u;  // 0.5f, whose last mantissa bit is a half's smallest subnormal
  const U subnormal = bit_cast<U>(bit_cast<F>(magnitude) + bit_cast<F>(half_bits)) - half_bits;
  const U normal = (magnitude - (112u << 23) + 0xfffu + ((magnitude >> 13) & 1u)) >> 13;
  const U special = magnitude > 0x7f800000u ? zero + 0x7e00u : zero + 0x7c00u;
  const U finite = magnitude < 0x38800000u ? subnormal : normal;
  const U result = magnitude >= 0x47800000u ? special : finite;
  return __builtin_convertvector(result | ((bits >> 16) & 0x8000u), Vec<uint16_t, kLanes>);
}
#endif

// Loads kLanes elements in the type they are computed in, and stores them back rounded.
template <int kLanes, class scalar_t>
SEGNET_INLINE Vec<acc_type<scalar_t>, kLanes> load(const scalar_t* from) {
  if constexpr (sizeof(scalar_t) == 2) {
    return to_float<kLanes>(load_raw<Vec<uint16_t, kLanes>>(from), scalar_t{});
  } else {
    return load_raw<Vec<scalar_t, kLanes>>(from);
  }
}
template <int kLanes, class scalar_t>
SEGNET_INLINE void store(scalar_t* to, Vec<acc_type<scalar_t>, kLanes> value) {
  if constexpr (sizeof(scalar_t) == 2) {
    store_raw(to, from_float<kLanes>(value, scalar_t{}));
  } else {
    store_raw(to, value);
  }
}

// Copies as many elements as the bits of `count` up to kCount say: no loop, and no call of memcpy, for a few.
template <int kCount, class scalar_t>
SEGNET_INLINE void copy_first(scalar_t* to, const scalar_t* from, int64_t count) {
  if constexpr (kCount > 0) {
    if (count & kCount) {
      __builtin_memcpy(to, from, kCount * sizeof(scalar_t));
    }
    copy_first<kCount / 2>(to + (count & kCount), from + (count & kCount), count);
  }
}
// load and store of the first `count` elements where these are fewer than kLanes, but at least one; lanes past them are
// loaded as zero.
template <int kLanes, class scalar_t>
SEGNET_INLINE Vec<acc_type<scalar_t>, kLanes> load_first(const scalar_t* from, int64_t count) {
  if (count >= kLanes) {
    return load<kLanes>(from);
  }
  scalar_t first[kLanes] = {};
  copy_first<kLanes / 2>(first, from, count);
  return load<kLanes>(first);
}
template <int kLanes, class scalar_t>
SEGNET_INLINE void store_first(scalar_t* to, Vec<acc_type<scalar_t>, kLanes> value, int64_t count) {
  if (count >= kLanes) {
    return store<kLanes>(to, value);
  }
  scalar_t first[kLanes];
  store<kLanes>(first, value);
  copy_first<kLanes / 2>(to, first, count);
}

// Fetches the lines of kCount elements, for kernels that walk through memory in more and shorter steps than the
// processor foresees. Any address will do: one that is not there is left alone.
template <int kCount, class scalar_t>
SEGNET_INLINE void prefetch(const scalar_t* from) {
  constexpr int kLine = 64 / sizeof(scalar_t);
  for (int i = 0; i < kCount; i += kLine) {
    __builtin_prefetch(from + i);
  }
}

// Stores past the caches, for maps larger than these: an ordinary store would first read the line that it fills. `to`
// is aligned to what is stored, and stores fill whole lines one after the other. stream_fence() lets other threads see
// them.
template <int kLanes, class scalar_t>
SEGNET_INLINE void stream(scalar_t* to, Vec<acc_type<scalar_t>, kLanes> value) {
  constexpr int kBytes = kLanes * sizeof(scalar_t);
  if constexpr (kBytes % 16 != 0) {
    store<kLanes>(to, value);
  } else {
    Vec<float, kBytes / 4> bits;
    store<kLanes>(reinterpret_cast<scalar_t*>(&bits), value);
    auto* at = reinterpret_cast<float*>(to);
#if defined(__clang__)
    __builtin_nontemporal_store(bits, reinterpret_cast<decltype(bits)*>(at));
#elif SEGNET_HAS_X86_LEVELS
    if constexpr (kBytes == 16) {
      __builtin_ia32_movntps(at, bits);
    } else if constexpr (kBytes == 32) {
      __builtin_ia32_movntps256(at, bits);
    } else {
      __builtin_ia32_movntps512(at, bits);
    }
#else
    store_raw(at, bits);
#endif
  }
}
template <int kLanes, class scalar_t>
SEGNET_INLINE void store(scalar_t* to, Vec<acc_type<scalar_t>, kLanes> value, bool past_caches) {
  past_caches ? stream<kLanes>(to, value) : store<kLanes>(to, value);
}
SEGNET_INLINE void stream_fence() {
#if SEGNET_HAS_X86_LEVELS
  __builtin_ia32_sfence();
#endif
}

// What `value` would be after a store and a load.
template <class scalar_t, int kLanes>
SEGNET_INLINE Vec<acc_type<scalar_t>, kLanes> round_to(Vec<acc_type<scalar_t>, kLanes> value) {
  if constexpr (sizeof(scalar_t) == 2) {
    return to_float<kLanes>(from_float<kLanes>(value, scalar_t{}), scalar_t{});
  } else {
    return value;
  }
}

// Lanes as doubles, and back. Written out lane by lane since GCC knows that as one instruction at every level, and
// __builtin_convertvector to a vector of twice the size at none.
template <class V, int... kLane>
SEGNET_INLINE Vec<double, sizeof...(kLane)> to_double(V value, std::integer_sequence<int, kLane...>) {
  return Vec<double, sizeof...(kLane)>{static_cast<double>(value[kLane])...};
}
template <int kLanes, class V>
SEGNET_INLINE Vec<double, kLanes> to_double(V value) {
  return to_double(value, std::make_integer_sequence<int, kLanes>{});
}
template <class T, int kLanes>
SEGNET_INLINE Vec<T, kLanes> from_double(Vec<double, kLanes> value) {
  return __builtin_convertvector(value, Vec<T, kLanes>);
}

// Comparisons of whole vectors that give a number with a bit to a lane, for kernels that store which lanes they are:
// where the processor has such masks, compared(a) > compared(b) is a LaneMask, and elsewhere the vector of 0 and -1
// that a > b is. select() takes both.
#if SEGNET_SIMD_MASKS
using FullFloat = Vec<float, 16>;
using FullDouble = Vec<double, 8>;

struct LaneMask {
  uint32_t bits;

  SEGNET_INLINE LaneMask operator|(LaneMask other) const { return {bits | other.bits}; }
};
SEGNET_INLINE LaneMask select(LaneMask mask, LaneMask a, LaneMask b) {
  return {(mask.bits & a.bits) | (~mask.bits & b.bits)};
}

// Predicates of vcmpps: as a > b and a != b of vectors have them.
constexpr int kGreater = 14, kNotEqual = 4;

template <int kPredicate>
SEGNET_INLINE LaneMask compare(FullFloat a, FullFloat b) {
  return {static_cast<uint16_t>(__builtin_ia32_cmpps512_mask(a, b, kPredicate, -1, kCurrentRounding))};
}
template <int kPredicate>
SEGNET_INLINE LaneMask compare(FullDouble a, FullDouble b) {
  return {static_cast<uint8_t>(__builtin_ia32_cmppd512_mask(a, b, kPredicate, -1, kCurrentRounding))};
}

template <class V>
struct Compared {
  V value;

  SEGNET_INLINE LaneMask operator>(Compared other) const { return compare<kGreater>(value, other.value); }
  SEGNET_INLINE LaneMask operator!=(Compared other) const { return compare<kNotEqual>(value, other.value); }
};

#if defined(__clang__)
SEGNET_INLINE FullFloat select(LaneMask mask, FullFloat a, FullFloat b) {
  return __builtin_ia32_selectps_512(static_cast<uint16_t>(mask.bits), a, b);
}
SEGNET_INLINE FullDouble select(LaneMask mask, FullDouble a, FullDouble b) {
  return __builtin_ia32_selectpd_512(static_cast<uint8_t>(mask.bits), a, b);
}
#else
SEGNET_INLINE FullFloat select(LaneMask mask, FullFloat a, FullFloat b) {
  return __builtin_ia32_blendmps_512_mask(b, a, static_cast<uint16_t>(mask.bits));
}
SEGNET_INLINE FullDouble select(LaneMask mask, FullDouble a, FullDouble b) {
  return __builtin_ia32_blendmpd_512_mask(b, a, static_cast<uint8_t>(mask.bits));
}
#endif
#endif

template <class T, int kLanes>
SEGNET_INLINE auto compared(Vec<T, kLanes> v) {
#if SEGNET_SIMD_MASKS
  if constexpr (kLanes == kLanesOf<T>) {
    return Compared<Vec<T, kLanes>>{v};
  } else
#endif
  {
    return v;
  }
}
template <class M, class V>
SEGNET_INLINE V select(M mask, V a, V b) {
  return mask ? a : b;
}

// The bits that any lane has.
template <class T, int kLanes>
SEGNET_INLINE T or_lanes(Vec<T, kLanes> v) {
  if constexpr (kLanes == 1) {
    return v[0];
  } else {
    Vec<T, kLanes / 2> halves[2];
    __builtin_memcpy(halves, &v, sizeof(v));
    return or_lanes<T, kLanes / 2>(halves[0] | halves[1]);
  }
}

// Two bits to each lane of two comparisons of whole vectors: bit 2 * i of lane i of `low`, bit 2 * i + 1 of lane i of
// `high`.
#if SEGNET_SIMD_MASKS
SEGNET_INLINE uint32_t interleaved_bits(LaneMask low, LaneMask high) {
  constexpr uint32_t kEven = 0x55555555u;
  return __builtin_ia32_pdep_si(low.bits, kEven) | __builtin_ia32_pdep_si(high.bits, kEven << 1);
}
#elif SEGNET_SIMD_HALVES
SEGNET_INLINE uint32_t interleaved_bits(Vec<int32_t, 8> low, Vec<int32_t, 8> high) {
  const auto words = __builtin_shufflevector(bit_cast<Vec<int16_t, 16>>(low), bit_cast<Vec<int16_t, 16>>(high), 0, 17,
                                             2, 19, 4, 21, 6, 23, 8, 25, 10, 27, 12, 29, 14, 31);
  Vec<int16_t, 8> halves[2];
  __builtin_memcpy(halves, &words, sizeof(words));
  return static_cast<uint32_t>(__builtin_ia32_pmovmskb128(__builtin_ia32_packsswb128(halves[0], halves[1])));
}
SEGNET_INLINE uint32_t interleaved_bits(Vec<int64_t, 4> low, Vec<int64_t, 4> high) {
  const auto words =
      __builtin_shufflevector(bit_cast<Vec<float, 8>>(low), bit_cast<Vec<float, 8>>(high), 0, 9, 2, 11, 4, 13, 6, 15);
  return static_cast<uint32_t>(__builtin_ia32_movmskps256(words));
}
#endif

// Calls body.template operator()<lanes>(i) over [0, count): full vectors of T first, then single lanes.
template <class T, class Body>
SEGNET_INLINE void for_lanes(int64_t count, const Body& body) {
  int64_t i = 0;
  for (; i + kLanesOf<T> <= count; i += kLanesOf<T>) {
    body(i, std::integral_constant<int, kLanesOf<T>>{});
  }
  for (; i < count; ++i) {
    body(i, std::integral_constant<int, 1>{});
  }
}
