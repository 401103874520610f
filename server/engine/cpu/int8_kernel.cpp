// An INT8 product for CPUs without VNNI, exact in integers, compiled by compiled.py.
//
// oneDNN's INT8 kernels need VNNI to be correct and fast. Here int8 is widened to int16, of which AVX2 multiplies sixteen
// at a time and adds neighbours as int32: twice what float32 does in a cycle. The sums are those of oneDNN with VNNI,
// and so are the bits. Few rows and many use the same code, so a row's result does not depend on the others.

#include <immintrin.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <optional>
#include <vector>

namespace {

constexpr int OUTPUTS = 16;  // of a tile: two vectors of eight int32
constexpr int ROWS = 128;    // that are multiplied with a tile together, and stay in a core's cache
constexpr int FEW = 4;       // rows that each thread rounds for itself, which takes less than waiting for the others
constexpr int AHEAD = 4096;  // bytes of the weight that are fetched early; a processor's own fetching ends at every page
constexpr int LINE = 64;     // bytes

// In place: GCC 12 puts all products of a step before the sums, has no registers left, and keeps sums in memory.
inline void add(__m256i& sum, __m256i products) { asm("vpaddd %1, %0, %0" : "+x"(sum) : "x"(products)); }

// y[row][.] = (x[row] * weight) * weight_scale * x_scale[row], in oneDNN's order, for a tile of outputs.
template <int R>
void tile(const int16_t* x, const int8_t* weight, int64_t pairs, const float* x_scale, const float* weight_scale,
          float* y, int64_t y_stride) {
  __m256i sums[R][2] = {};
  for (int64_t pair = 0; pair < pairs; pair++) {
    if (pair % (LINE / 2 / OUTPUTS) == 0) __builtin_prefetch(weight + pair * 2 * OUTPUTS + AHEAD);
    __m256i factors[2];
    for (int half = 0; half < 2; half++)
      factors[half] = _mm256_cvtepi8_epi16(_mm_loadu_si128((const __m128i*)(weight + pair * 2 * OUTPUTS + half * 16)));
#pragma GCC unroll 8
    for (int r = 0; r < R; r++) {
      int both;
      memcpy(&both, x + (r * pairs + pair) * 2, sizeof(both));
      for (int half = 0; half < 2; half++)
        add(sums[r][half], _mm256_madd_epi16(_mm256_set1_epi32(both), factors[half]));
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < R; r++)
#pragma GCC unroll 2
    for (int half = 0; half < 2; half++) {
      __m256 scaled = _mm256_mul_ps(_mm256_cvtepi32_ps(sums[r][half]), _mm256_loadu_ps(weight_scale + half * 8));
      _mm256_storeu_ps(y + r * y_stride + half * 8, _mm256_mul_ps(scaled, _mm256_set1_ps(x_scale[r])));
    }
}

// Round a row to int8 as vLLM does, and return its scale.
float quantise(const float* x, int64_t d_in, int16_t* out) {
  __m256 most = _mm256_setzero_ps(), sign = _mm256_set1_ps(-0.0f);
  int64_t whole = d_in / 8 * 8;
  for (int64_t i = 0; i < whole; i += 8) most = _mm256_max_ps(most, _mm256_andnot_ps(sign, _mm256_loadu_ps(x + i)));
  float lanes[8], largest = 0;
  _mm256_storeu_ps(lanes, most);
  for (float lane : lanes) largest = std::max(largest, lane);
  for (int64_t i = whole; i < d_in; i++) largest = std::max(largest, std::fabs(x[i]));
  float scale = largest / 127.0f, inverse = largest > 0 ? 1.0f / scale : 0;
  for (int64_t i = 0; i < whole; i += 8) {
    __m256i rounded = _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_loadu_ps(x + i), _mm256_set1_ps(inverse)));
    __m128i packed = _mm_packs_epi32(_mm256_castsi256_si128(rounded), _mm256_extracti128_si256(rounded, 1));
    _mm_storeu_si128((__m128i*)(out + i), packed);
  }
  for (int64_t i = whole; i < d_in; i++) out[i] = (int16_t)std::nearbyintf(x[i] * inverse);
  return scale;
}

// weight [tiles, pairs, OUTPUTS, 2]; the scales are those of the tiles' outputs.
struct Weight {
  const int8_t* tiles;
  const float* scale;
  int64_t d_in, d_out;
};

struct Rounded {  // rows of inputs
  std::vector<int16_t> numbers;
  std::vector<float> scales;
  int64_t pairs;
  Rounded(int64_t rows, int64_t pairs) : numbers(rows * 2 * pairs), scales(rows), pairs(pairs) {}
  void take(const float* x, int64_t d_in, int64_t row) {
    scales[row] = quantise(x + row * d_in, d_in, numbers.data() + row * 2 * pairs);
  }
};

void multiply(const float* x, const Weight& weight, float* y, int64_t rows) {
  int64_t pairs = (weight.d_in + 1) / 2, d_out = weight.d_out;
  int64_t tiles = (d_out + OUTPUTS - 1) / OUTPUTS, blocks = (rows + ROWS - 1) / ROWS;
  Rounded shared(rows > FEW ? rows : 0, pairs);
#pragma omp parallel
  {
    Rounded own(rows > FEW ? 0 : rows, pairs), &inputs = rows > FEW ? shared : own;
    if (rows > FEW) {
#pragma omp for schedule(static)
      for (int64_t row = 0; row < rows; row++) inputs.take(x, weight.d_in, row);
    } else {
      for (int64_t row = 0; row < rows; row++) inputs.take(x, weight.d_in, row);
    }
#pragma omp for schedule(static) nowait
    for (int64_t task = 0; task < blocks * tiles; task++) {
      int64_t first = task / tiles * ROWS, last = std::min(rows, first + ROWS), low = task % tiles * OUTPUTS;
      const int8_t* factors = weight.tiles + task % tiles * pairs * OUTPUTS * 2;
      bool whole = low + OUTPUTS <= d_out;
      for (int64_t row = first, done; row < last; row += done) {
        float spare[6 * OUTPUTS], *out = whole ? y + row * d_out + low : spare;
        done = last - row >= 6 ? 6 : last - row >= 4 ? 4 : last - row >= 2 ? 2 : 1;
        auto product = done == 6 ? tile<6> : done == 4 ? tile<4> : done == 2 ? tile<2> : tile<1>;
        product(inputs.numbers.data() + row * pairs * 2, factors, pairs, inputs.scales.data() + row, weight.scale + low,
                out, whole ? d_out : OUTPUTS);
        for (int64_t r = 0; r < done && !whole; r++)
          memcpy(y + (row + r) * d_out + low, spare + r * OUTPUTS, (d_out - low) * sizeof(float));
      }
    }
  }
}

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

std::vector<Weight> weights;

int64_t add_int8_weight(int64_t tiles, int64_t scale, int64_t d_in, int64_t d_out) {
  weights.push_back({(const int8_t*)tiles, (const float*)scale, d_in, d_out});
  return weights.size() - 1;
}

Tensor plain(const Tensor& x) {
  if (x.scalar_type() == ScalarType::Float && x.is_contiguous()) return x;
  return torch::stable::contiguous(torch::stable::to(x, ScalarType::Float));
}

Tensor int8_product(const Tensor x, int64_t number, std::optional<Tensor> bias) {
  const Weight& weight = weights.at(number);
  int64_t last = x.dim() - 1;
  STD_TORCH_CHECK(x.size(last) == weight.d_in, "a weight of ", weight.d_in, " inputs was given ", x.size(last));
  Tensor inputs = plain(x);
  std::vector<int64_t> shape;
  for (int64_t d = 0; d < last; d++) shape.push_back(x.size(d));
  shape.push_back(weight.d_out);
  Tensor out = torch::stable::new_empty(inputs, shape);
  auto y = (float*)out.mutable_data_ptr();
  int64_t rows = x.numel() / weight.d_in;
  multiply((const float*)inputs.data_ptr(), weight, y, rows);
  if (bias) {
    Tensor added = plain(*bias);
    auto to_each = (const float*)added.data_ptr();
    for (int64_t row = 0; row < rows; row++)
      for (int64_t i = 0; i < weight.d_out; i++) y[row * weight.d_out + i] += to_each[i];
  }
  return x.scalar_type() == ScalarType::Float ? out : torch::stable::to(out, x.scalar_type());
}

}  // namespace

// Weights by the addresses of arrays that their owners keep.
STABLE_TORCH_LIBRARY_FRAGMENT(lorecall, m) {
  m.def("add_int8_weight(int tiles, int scale, int d_in, int d_out) -> int");
  m.def("int8_product(Tensor x, int weight, Tensor? bias) -> Tensor");
}

STABLE_TORCH_LIBRARY_IMPL(lorecall, CompositeExplicitAutograd, m) {
  m.impl("add_int8_weight", TORCH_BOX(&add_int8_weight));
}

STABLE_TORCH_LIBRARY_IMPL(lorecall, CPU, m) { m.impl("int8_product", TORCH_BOX(&int8_product)); }
