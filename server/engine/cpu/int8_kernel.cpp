// An INT8 product for CPUs without VNNI, exact in integers, compiled by compiled.py.
//
// oneDNN's INT8 kernels need VNNI to be correct and fast. Here int8 is widened to int16, of which AVX2 multiplies sixteen
// at a time and adds neighbours as int32: twice what float32 does in a cycle. The sums are those of oneDNN with VNNI,
// and so are the bits. Few rows and many use the same code, so a row's result does not depend on the others.

#include <immintrin.h>

#include <algorithm>
#include <cstdint>
#include <cstring>

namespace {

constexpr int OUTPUTS = 16;  // of a tile: two vectors of eight int32
constexpr int ROWS = 128;    // that are multiplied with a tile together, and stay in a core's cache

// y[row][.] = (x[row] * weight) * weight_scale * x_scale[row], in oneDNN's order, for a tile of outputs.
template <int R>
void tile(const int16_t* x, const int8_t* weight, int64_t pairs, const float* x_scale, const float* weight_scale,
          float* y, int64_t y_stride) {
  __m256i sums[R][2] = {};
  for (int64_t pair = 0; pair < pairs; pair++) {
    __m256i factors[2];
    for (int half = 0; half < 2; half++)
      factors[half] = _mm256_cvtepi8_epi16(_mm_loadu_si128((const __m128i*)(weight + pair * 2 * OUTPUTS + half * 16)));
    for (int r = 0; r < R; r++) {
      int both;
      memcpy(&both, x + (r * pairs + pair) * 2, sizeof(both));
      for (int half = 0; half < 2; half++)
        sums[r][half] =
            _mm256_add_epi32(sums[r][half], _mm256_madd_epi16(_mm256_set1_epi32(both), factors[half]));
    }
  }
  for (int r = 0; r < R; r++)
    for (int half = 0; half < 2; half++) {
      __m256 scaled = _mm256_mul_ps(_mm256_cvtepi32_ps(sums[r][half]), _mm256_loadu_ps(weight_scale + half * 8));
      _mm256_storeu_ps(y + r * y_stride + half * 8, _mm256_mul_ps(scaled, _mm256_set1_ps(x_scale[r])));
    }
}

}  // namespace

// x [rows, 2 * pairs] int16, weight [tiles, pairs, OUTPUTS, 2] int8, scales of rows and of the tiles' outputs.
extern "C" void int8_product(const int16_t* x, const int8_t* weight, const float* x_scale, const float* weight_scale,
                             float* y, int64_t rows, int64_t pairs, int64_t d_out) {
  int64_t tiles = (d_out + OUTPUTS - 1) / OUTPUTS, blocks = (rows + ROWS - 1) / ROWS;
#pragma omp parallel for schedule(static)
  for (int64_t task = 0; task < blocks * tiles; task++) {
    int64_t first = task / tiles * ROWS, last = std::min(rows, first + ROWS), low = task % tiles * OUTPUTS;
    const int8_t* factors = weight + task % tiles * pairs * OUTPUTS * 2;
    bool whole = low + OUTPUTS <= d_out;
    for (int64_t row = first, done; row < last; row += done) {
      float spare[4 * OUTPUTS], *out = whole ? y + row * d_out + low : spare;
      done = last - row >= 4 ? 4 : last - row >= 2 ? 2 : 1;
      auto product = done == 4 ? tile<4> : done == 2 ? tile<2> : tile<1>;
      product(x + row * pairs * 2, factors, pairs, x_scale + row, weight_scale + low, out, whole ? d_out : OUTPUTS);
      for (int64_t r = 0; r < done && !whole; r++)
        memcpy(y + (row + r) * d_out + low, spare + r * OUTPUTS, (d_out - low) * sizeof(float));
    }
  }
}
