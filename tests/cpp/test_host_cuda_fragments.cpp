// The fragments of the matrix instructions, element by element. The formulas below are those of the PTX ISA document
// (sections "Matrix Fragments for ..."), with its names: groupID = lane >> 2, threadID_in_group = lane % 4, and a_i,
// b_i, c_i for the elements of a lane's fragments from its first register's low bits up. The host bodies were not
// written from these formulas.
#include "cuda/ptx.cuh"
#include "cuda/vector.cuh"
#include "host_cuda_testing.h"

namespace segnet_ext::testing {
namespace {

struct Place {
  int row, col;
};

// What a shape's fragments hold. kElements are those of A and B of one lane; kPacked of them lie in one register.
struct M16N8K16 {
  static constexpr int kDepth = 16, kA = 8, kB = 4, kPacked = 2;
  static Place a(int group, int thread, int i) {
    return {(0 <= i && i < 2) || (4 <= i && i < 6) ? group : group + 8,
            i < 4 ? thread * 2 + (i & 1) : thread * 2 + (i & 1) + 8};
  }
  static Place b(int group, int thread, int i) {
    return {i < 2 ? thread * 2 + (i & 1) : thread * 2 + (i & 1) + 8, group};
  }
};
struct M16N8K8 {
  static constexpr int kDepth = 8, kA = 4, kB = 2, kPacked = 2;
  static Place a(int group, int thread, int i) { return {i < 2 ? group : group + 8, thread * 2 + (i & 1)}; }
  static Place b(int group, int thread, int i) { return {thread * 2 + i, group}; }
};
struct M16N8K8Tf32 {
  static constexpr int kDepth = 8, kA = 4, kB = 2, kPacked = 1;
  static Place a(int group, int thread, int i) {
    return {i == 0 || i == 2 ? group : group + 8, i == 0 || i == 1 ? thread : thread + 4};
  }
  static Place b(int group, int thread, int i) { return {i == 0 ? thread : thread + 4, group}; }
};
// Of each four columns from `col` on, a_i and a_(i+1) are the two that the metadata names.
struct SparseM16N8K32 {
  static constexpr int kDepth = 32, kA = 8, kB = 8, kPacked = 2;
  static Place a(int group, int thread, int i) {
    return {(0 <= i && i < 2) || (4 <= i && i < 6) ? group : group + 8, i < 4 ? thread * 4 : thread * 4 + 16};
  }
  static Place b(int group, int thread, int i) { return {thread * 2 + (i & 1) + 8 * (i / 2), group}; }
};
Place c_of(int group, int thread, int i) {
  return {i < 2 ? group : group + 8, thread * 2 + (i & 1)};
}

// How the elements are stored: exactly, as all are small integers.
struct AsHalf {
  using type = half;
  static unsigned bits(int value) { return host_cuda::half_from_float(static_cast<float>(value)); }
};
struct AsBFloat16 {
  using type = bfloat16;
  static unsigned bits(int value) { return host_cuda::bfloat16_from_float(static_cast<float>(value)); }
};
struct AsTf32 {
  static unsigned bits(int value) { return host_cuda::float_bits(static_cast<float>(value)); }
};

struct Fragments {
  unsigned a[32][4], b[32][4], metadata[32];
  float d[32][4];
};

template <class Shape, class Format>
void set_a(Fragments& fragments, int lane, int i, int value) {
  unsigned& to = fragments.a[lane][i / Shape::kPacked];
  const int shift = 16 * (i % Shape::kPacked);
  to = (to & ~((Shape::kPacked == 2 ? 0xffffu : 0xffffffffu) << shift)) | Format::bits(value) << shift;
}
template <class Shape, class Format>
void set_b(Fragments& fragments, int lane, int i, int value) {
  unsigned& to = fragments.b[lane][i / Shape::kPacked];
  const int shift = 16 * (i % Shape::kPacked);
  to = (to & ~((Shape::kPacked == 2 ? 0xffffu : 0xffffffffu) << shift)) | Format::bits(value) << shift;
}

// No two elements of B are the same, nor of A and of C.
int b_value(Place place) {
  return 1 + place.row * 8 + place.col;
}
int a_value(Place place) {
  return 1 + place.row * 7 + place.col * 3 % 11;
}
float c_value(Place place) {
  return static_cast<float>(1000 + 8 * place.row + place.col);
}

struct KernelParams {
  Fragments* fragments;  // of one warp for each block
};
template <class Format, int kSelector>
void call(M16N8K16, Fragments& f, int lane) {
  cuda::mma_m16n8k16(f.d[lane], f.a[lane], {f.b[lane][0], f.b[lane][1]}, typename Format::type{});
}
template <class Format, int kSelector>
void call(M16N8K8, Fragments& f, int lane) {
  cuda::mma_m16n8k8(f.d[lane], {f.a[lane][0], f.a[lane][1]}, f.b[lane][0], half{});
}
template <class Format, int kSelector>
void call(M16N8K8Tf32, Fragments& f, int lane) {
  cuda::mma_m16n8k8_tf32(f.d[lane], f.a[lane], {f.b[lane][0], f.b[lane][1]});
}
template <class Format, int kSelector>
void call(SparseM16N8K32, Fragments& f, int lane) {
  cuda::mma_sp_m16n8k32<kSelector>(f.d[lane], f.a[lane], f.b[lane], f.metadata[lane], typename Format::type{});
}
template <class Shape, class Format, int kSelector>
__global__ void mma_kernel(KernelParams p) {
  call<Format, kSelector>(Shape{}, p.fragments[blockIdx.x], static_cast<int>(threadIdx.x));
}

template <class Shape, class Format, int kSelector>
void run(Buffer<Fragments>& all) {
  host_cuda::Buffers buffers;
  buffers.update(all.data(), sizeof(Fragments) * static_cast<size_t>(all.size()), "fragments");
  launcher()(mma_kernel<Shape, Format, kSelector>, {cuda::grid_size(all.size()), 32, 0}, KernelParams{all.data()});
}

// Where element i of a lane of A is in the matrix: for the sparse shape, where the metadata puts it.
template <class Shape>
Place a_place(int lane, int i, const int (&positions)[2]) {
  Place place = Shape::a(lane >> 2, lane % 4, i);
  if (Shape::kDepth == 32) {
    place.col += positions[i & 1];
  }
  return place;
}

template <class Shape, class Format>
void set_all(Fragments& f, bool a, bool b, unsigned pair, int selector, const int (&positions)[2]) {
  for (int lane = 0; lane < 32; ++lane) {
    for (int i = 0; i < 4; ++i) {
      f.a[lane][i] = f.b[lane][i] = 0;
      f.d[lane][i] = c_value(c_of(lane >> 2, lane % 4, i));
    }
    for (int i = 0; i < Shape::kA && a; ++i) {
      set_a<Shape, Format>(f, lane, i, a_value(a_place<Shape>(lane, i, positions)));
    }
    for (int i = 0; i < Shape::kB && b; ++i) {
      set_b<Shape, Format>(f, lane, i, b_value(Shape::b(lane >> 2, lane % 4, i)));
    }
    // Lanes that the selector does not name hold what would be a fault.
    f.metadata[lane] = lane % 4 / 2 == selector ? pair * 0x11111111u : 0;
  }
}

// One element of A at a time is 1, all of B set: row `row` of the result is row `col` of B. Then the other way around.
template <class Shape, class Format, int kSelector>
void test_elements(unsigned pair) {
  const int positions[2] = {static_cast<int>(pair & 3), static_cast<int>(pair >> 2)};
  Buffer<Fragments> of_a(32 * Shape::kA), of_b(32 * Shape::kB);
  for (int n = 0; n < 32 * Shape::kA; ++n) {
    set_all<Shape, Format>(of_a[n], false, true, pair, kSelector, positions);
    set_a<Shape, Format>(of_a[n], n / Shape::kA, n % Shape::kA, 1);
  }
  for (int n = 0; n < 32 * Shape::kB; ++n) {
    set_all<Shape, Format>(of_b[n], true, false, pair, kSelector, positions);
    set_b<Shape, Format>(of_b[n], n / Shape::kB, n % Shape::kB, 1);
  }
  run<Shape, Format, kSelector>(of_a);
  run<Shape, Format, kSelector>(of_b);
  for (int n = 0; n < 32 * Shape::kA; ++n) {
    const Place one = a_place<Shape>(n / Shape::kA, n % Shape::kA, positions);
    for (int i = 0; i < 32 * 4; ++i) {
      const Place place = c_of(i / 4 >> 2, i / 4 % 4, i % 4);
      const float product = place.row == one.row ? static_cast<float>(b_value({one.col, place.col})) : 0;
      CHECK(of_a[n].d[i / 4][i % 4] == c_value(place) + product, "a_%d of lane %d, c_%d of lane %d: %g", n % Shape::kA,
            n / Shape::kA, i % 4, i / 4, of_a[n].d[i / 4][i % 4]);
    }
  }
  for (int n = 0; n < 32 * Shape::kB; ++n) {
    const Place one = Shape::b(n / Shape::kB >> 2, n / Shape::kB % 4, n % Shape::kB);
    for (int i = 0; i < 32 * 4; ++i) {
      const Place place = c_of(i / 4 >> 2, i / 4 % 4, i % 4);
      const bool held = Shape::kDepth != 32 || one.row % 4 == positions[0] || one.row % 4 == positions[1];
      const bool meets = held && place.col == one.col;
      const float product = meets ? static_cast<float>(a_value({place.row, one.row})) : 0;
      CHECK(of_b[n].d[i / 4][i % 4] == c_value(place) + product, "b_%d of lane %d, c_%d of lane %d: %g", n % Shape::kB,
            n / Shape::kB, i % 4, i / 4, of_b[n].d[i / 4][i % 4]);
    }
  }
}

template <class Format, int kSelector>
void test_sparse() {
  for (const unsigned pair : {0b0100u, 0b1000u, 0b1100u, 0b1001u, 0b1101u, 0b1110u}) {
    test_elements<SparseM16N8K32, Format, kSelector>(pair);
  }
}

// The metadata's bits: figure "Sparse MMA .m16n8k32 metadata layout for .f16/.bf16 type". Of the two lanes of a group
// that the selector names the first holds columns 0 to 15, the second 16 to 31; bits 0 to 15 are for row groupID, 16 to
// 31 for row groupID + 8; four bits for four columns.
template <int kSelector>
void test_metadata() {
  const int usual[2] = {0, 1};
  Buffer<Fragments> all(16 * 8);
  for (int n = 0; n < 16 * 8; ++n) {
    const int row = n / 8, four = n % 8;
    set_all<SparseM16N8K32, AsHalf>(all[n], false, true, 0b0100, kSelector, usual);
    for (int lane = 0; lane < 32; ++lane) {
      for (int i = 0; i < 8; ++i) {
        const Place place = SparseM16N8K32::a(lane >> 2, lane % 4, i);
        if (place.row == row && place.col == 4 * four) {
          set_a<SparseM16N8K32, AsHalf>(all[n], lane, i, i % 2 == 0 ? 1 : 2);
        }
      }
    }
    const int shift = (row < 8 ? 0 : 16) + 4 * (four % 4);
    unsigned& metadata = all[n].metadata[4 * (row % 8) + 2 * kSelector + (four < 4 ? 0 : 1)];
    metadata = (metadata & ~(15u << shift)) | 0b1110u << shift;  // the third and fourth of these columns
  }
  run<SparseM16N8K32, AsHalf, kSelector>(all);
  for (int n = 0; n < 16 * 8; ++n) {
    const int row = n / 8, four = n % 8;
    for (int i = 0; i < 32 * 4; ++i) {
      const Place place = c_of(i / 4 >> 2, i / 4 % 4, i % 4);
      const int product = b_value({4 * four + 2, place.col}) + 2 * b_value({4 * four + 3, place.col});
      const float expected = c_value(place) + (place.row == row ? static_cast<float>(product) : 0);
      CHECK(all[n].d[i / 4][i % 4] == expected, "metadata of row %d, columns %d on", row, 4 * four);
    }
  }
}

// ldmatrix: lanes 8i to 8i+7 give the rows of matrix i; lane 4r+c has elements 2c and 2c+1 of row r, and of column r
// where the matrix is transposed.
struct LoadParams {
  const uint16_t* input;  // [4, 8, 8]
  unsigned* output;       // [4 kinds, 32, 4]
};
__global__ void load_kernel(LoadParams p) {
  SEGNET_DYNAMIC_SHARED(raw);
  auto* shared = reinterpret_cast<uint16_t*>(raw);
  const int lane = static_cast<int>(threadIdx.x);
  const int place = lane * 5 % 32;  // the rows lie in no order
  for (int i = 0; i < 8; ++i) {
    shared[place * 8 + i] = p.input[lane * 8 + i];
  }
  __syncwarp();
  unsigned four[4], two[2];
  cuda::ldmatrix_x4(four, shared + place * 8);
  for (int i = 0; i < 4; ++i) {
    p.output[lane * 4 + i] = four[i];
  }
  cuda::ldmatrix_x4_trans(four, shared + place * 8);
  for (int i = 0; i < 4; ++i) {
    p.output[128 + lane * 4 + i] = four[i];
  }
  cuda::ldmatrix_x2(two, lane < 16 ? shared + place * 8 : nullptr);
  for (int i = 0; i < 4; ++i) {
    p.output[256 + lane * 4 + i] = i < 2 ? two[i] : 0;
  }
  cuda::ldmatrix_x2_trans(two, lane < 16 ? shared + place * 8 : nullptr);
  for (int i = 0; i < 4; ++i) {
    p.output[384 + lane * 4 + i] = i < 2 ? two[i] : 0;
  }
}

void test_loads() {
  Buffer<uint16_t> input(256);
  Buffer<unsigned> output(512);
  for (int i = 0; i < 256; ++i) {
    input[i] = static_cast<uint16_t>(i + 1);
  }
  host_cuda::Buffers buffers;
  buffers.read(input.data(), 512, "input");
  buffers.write(output.data(), 2048, "output");
  launcher()(load_kernel, {1, 32, 512}, LoadParams{input.data(), output.data()});
  for (int kind = 0; kind < 4; ++kind) {
    for (int lane = 0; lane < 32; ++lane) {
      for (int matrix = 0; matrix < (kind < 2 ? 4 : 2); ++matrix) {
        const int r = lane / 4, c = lane % 4;
        const auto at = [&](int row, int column) {
          return static_cast<unsigned>(input[matrix * 64 + row * 8 + column]);
        };
        const unsigned low = kind % 2 == 0 ? at(r, 2 * c) : at(2 * c, r);
        const unsigned high = kind % 2 == 0 ? at(r, 2 * c + 1) : at(2 * c + 1, r);
        CHECK(output[kind * 128 + lane * 4 + matrix] == (high << 16 | low), "kind %d, lane %d, matrix %d", kind, lane,
              matrix);
      }
    }
  }
}

// Rows 16 bytes apart meet all banks; 128 bytes apart all the same four; 64 bytes apart two groups.
void test_bank_conflicts() {
  for (const int stride : {16, 32, 64, 128, 144}) {
    host_cuda::counters() = {};
    host_cuda::launch(1, 32, 8192, [=] {
      SEGNET_DYNAMIC_SHARED(shared);
      unsigned char* row = shared + stride * static_cast<int>(threadIdx.x);
      for (int i = 0; i < 16; ++i) {
        row[i] = 0;
      }
      __syncwarp();
      unsigned r[4];
      cuda::ldmatrix_x4(r, row);
    });
    const int64_t expected = stride == 32 ? 4 : stride == 64 ? 12 : stride == 128 ? 28 : 0;
    CHECK(host_cuda::counters().ldmatrix == 1, "ldmatrix is counted once");
    CHECK(host_cuda::counters().bank_conflicts == expected, "stride %d: %d conflicts", stride,
          static_cast<int>(host_cuda::counters().bank_conflicts));
  }
}

// Eight threads at a time, by vectors and by asynchronous copies.
void test_vector_bank_conflicts() {
  Buffer<unsigned char> source(16);
  host_cuda::Buffers buffers;
  buffers.read(source.data(), 16, "source");
  for (const int stride : {16, 32, 64, 80, 128, 144}) {
    const unsigned char* from = source.data();
    const auto conflicts = [=](auto write) {
      host_cuda::counters() = {};
      host_cuda::launch(1, 32, 8192, [=] {
        SEGNET_DYNAMIC_SHARED(shared);
        write(shared + stride * static_cast<int>(threadIdx.x));
      });
      return static_cast<int>(host_cuda::counters().vector_bank_conflicts);
    };
    const int expected = stride == 32 ? 4 : stride == 64 ? 12 : stride == 128 ? 28 : 0;
    const int stores = conflicts([](auto* to) { cuda::store_vector(to, cuda::Vector<unsigned char, 16>{}); });
    CHECK(stores == expected, "stride %d: %d conflicts of stores", stride, stores);
    const int copies = conflicts([=](auto* to) { cuda::copy_async_16(to, from, true); });
    CHECK(copies == expected, "stride %d: %d conflicts of copies", stride, copies);
  }
}

// No numbers, and floats that are no tf32.
void test_numbers() {
  Buffer<Fragments> all(3);
  const int usual[2] = {0, 1};
  for (int n = 0; n < 3; ++n) {
    set_all<M16N8K16, AsHalf>(all[n], false, false, 0, 0, usual);
  }
  all[0].a[0][0] = 0x7e00;  // NaN at row 0, column 0
  all[1].a[0][0] = 0x7c00;  // infinity there
  all[1].b[0][0] = 0x3c00;  // 1 at row 0, column 0
  all[2].a[0][0] = 0x0001;  // 2^-24
  all[2].b[0][0] = 0x6c00;  // 2^12
  run<M16N8K16, AsHalf, 0>(all);
  CHECK(std::isnan(all[0].d[0][0]) && std::isnan(all[0].d[3][1]) && all[0].d[4][0] == 1008, "NaN");
  CHECK(all[1].d[0][0] == INFINITY && std::isnan(all[1].d[0][1]), "infinity times one and zero");
  CHECK(all[2].d[0][0] == 1000 + 0x1p-12f, "a subnormal half");
  set_all<M16N8K8Tf32, AsTf32>(all[0], false, false, 0, 0, usual);
  all[0].a[0][0] = host_cuda::float_bits(1 + 0x1p-10f + 0x1p-11f + 0x1p-20f);
  all[0].b[0][0] = host_cuda::float_bits(1);
  all[0].d[0][0] = 0;
  run<M16N8K8Tf32, AsTf32, 0>(all);
  CHECK(all[0].d[0][0] == 1 + 0x1p-10f, "floats are cut: %.9g", all[0].d[0][0]);
}

}  // namespace
}  // namespace segnet_ext::testing

int main() {
  using namespace segnet_ext::testing;
  test_elements<M16N8K16, AsHalf, 0>(0);
  test_elements<M16N8K16, AsBFloat16, 0>(0);
  test_elements<M16N8K8, AsHalf, 0>(0);
  test_elements<M16N8K8Tf32, AsTf32, 0>(0);
  test_sparse<AsHalf, 0>();
  test_sparse<AsHalf, 1>();
  test_sparse<AsBFloat16, 1>();
  test_metadata<0>();
  test_metadata<1>();
  test_loads();
  test_bank_conflicts();
  test_vector_bank_conflicts();
  test_numbers();
  return 0;
}
