// LoRA on all rows of a step, whatever their adapters: y += scale * x * A * B, compiled by compiled.py, as operators of
// torch: a call from Python for each layer of each step would cost more than the products of a few rows.
//
// Eight rows of one slot go together, so that a factor is read once for all of them. While one part is computed, the
// memory of the next is fetched: a decode step finds its caches full of the base's weights, and a prefill's inputs and
// outputs do not fit into them. The sums of a row are added in the same order whatever the other rows are.

#include <omp.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#ifdef __AVX512BF16__
#include <immintrin.h>
#endif

#include <algorithm>
#include <array>
#include <bit>
#include <cstdint>
#include <cstring>
#include <type_traits>
#include <vector>

namespace {

constexpr int ROWS = 8;    // rows of a group, as the groups are made in Python
constexpr int LANES = 16;  // packed columns of A are a multiple
constexpr int BLOCK = 48;  // packed columns of B that stand together
constexpr int PARTS = 4;   // of the sum over d_in: long chains of additions wait for each other
constexpr int AHEAD = 64;  // columns of the outputs
constexpr int LINE = 64;   // bytes
#ifdef __AVX512F__
constexpr bool AVX512 = true;  // 32 registers hold the sums of 8 rows and 3 tiles; otherwise those of 4 and 1
constexpr int WIDTH = 16;
#else
constexpr bool AVX512 = false;
constexpr int WIDTH = 8;
#endif

typedef uint16_t Half;  // the bits of a bfloat16
typedef float Floats __attribute__((vector_size(WIDTH * 4), aligned(4)));
typedef uint32_t Words __attribute__((vector_size(WIDTH * 4), aligned(4)));
typedef uint16_t Halves __attribute__((vector_size(WIDTH * 2), aligned(2)));

inline Floats load(const float* from) { return *(const Floats*)from; }
inline Floats load(const Half* from) { return (Floats)(__builtin_convertvector(*(const Halves*)from, Words) << 16); }
inline void store(float* to, Floats value) { *(Floats*)to = value; }
inline void store(Half* to, Floats value) {
#ifdef __AVX512BF16__
  __m256bh rounded = _mm512_cvtneps_pbh((__m512)value);
  memcpy(to, &rounded, sizeof(rounded));
  return;
#endif
  Words bits = (Words)value;
  *(Halves*)to = __builtin_convertvector((bits + 0x7fff + ((bits >> 16) & 1)) >> 16, Halves);
}

// How a step of a sum multiplies: DEPTH numbers of the inputs with DEPTH x WIDTH packed factors.
struct Single {
  typedef float Factor, Input;
  static constexpr int DEPTH = 1;
  Floats factors;
  Single() = default;
  explicit Single(const float* from) : factors(load(from)) {
#ifdef __x86_64__
    asm("" : "+v"(factors));  // GCC 12 reads them from memory again for each row, and waits for that
#endif
  }
  void add(Floats& sum, const float* x) const { sum += *x * factors; }
};

struct Pair {
  typedef Half Factor;  // two bfloat16 of neighbouring ranks or inputs in each word
  typedef float Input;
  static constexpr int DEPTH = 2;
  Floats low, high;
  Pair() = default;
  explicit Pair(const Half* from) {
    Words words = *(const Words*)from;
    low = (Floats)(words << 16), high = (Floats)(words & 0xffff0000u);
  }
  void add(Floats& sum, const float* x) const { sum += x[0] * low, sum += x[1] * high; }
};

#ifdef __AVX512BF16__
struct Rounded {  // as Pair, with inputs and shrunk rows rounded to bfloat16: one instruction for both products
  typedef Half Factor, Input;
  static constexpr int DEPTH = 2;
  __m512i factors;
  Rounded() = default;
  explicit Rounded(const Half* from) : factors(_mm512_loadu_si512(from)) {}
  void add(Floats& sum, const Half* x) const {
    int pair;
    memcpy(&pair, x, sizeof(pair));
    sum = (Floats)_mm512_dpbf16_ps((__m512)sum, (__m512bh)_mm512_set1_epi32(pair), (__m512bh)factors);
  }
};
#else
typedef Pair Rounded;
#endif

struct Step {  // as in grouped_lora.py
  const int64_t *groups, *sizes, *slots;
  int64_t count, rows;
};

struct Module {  // as in module_factors.py
  void *a, *b;
  const int64_t *ranks, *starts;
  int64_t a_size, b_size, slices, d_in, d_out, largest, arithmetic;
};

// Memory that is fetched into the cache a few lines at a time, in a number of times.
struct Fetch {
  const char *at, *end;
  int64_t lines;
  Fetch() = default;
  Fetch(const void* begin, int64_t bytes, int64_t times)
      : at((const char*)begin), end(at + bytes), lines(bytes / LINE / times + 1) {}
  void some() {
    for (int64_t i = 0; i < lines && at < end; i++, at += LINE) __builtin_prefetch(at, 0, 2);
  }
};

// out[row][column] = scale * x[row] * a, for V tiles of columns. SIDE parts of the sum are computed side by side, which
// few rows need to keep the processor busy; they are added in the same order one after the other.
template <class K, int R, int V, int SIDE>
inline void shrink(const typename K::Input* const* x, const typename K::Factor* a, int64_t steps, int64_t columns, float scale,
                   float* out, Fetch& fetch) {
  constexpr int N = V * LANES / WIDTH;
  Floats total[R][N];
  int64_t part = (steps + PARTS - 1) / PARTS;
  auto length = [&](int p) { return std::max(std::min(steps - p * part, part), int64_t(0)); };
  for (int first = 0; first < PARTS; first += SIDE) {
    Floats sum[SIDE][R][N] = {};
    auto step = [&](int side, int64_t i) __attribute__((always_inline)) {
      i += (first + side) * part;
      K factors[N];
      for (int v = 0; v < N; v++) factors[v] = K(a + (i * columns + v * WIDTH) * K::DEPTH);
      for (int r = 0; r < R; r++)
        for (int v = 0; v < N; v++) factors[v].add(sum[side][r][v], x[r] + i * K::DEPTH);
    };
    int64_t common = length(first + SIDE - 1);
    for (int64_t i = 0; i < common; i++) {
      fetch.some();
#pragma GCC unroll 4
      for (int side = 0; side < SIDE; side++) step(side, i);
    }
#pragma GCC unroll 4
    for (int side = 0; side < SIDE; side++) {
      for (int64_t i = common; i < length(first + side); i++) step(side, i);
      for (int r = 0; r < R; r++)
        for (int v = 0; v < N; v++) total[r][v] = first + side ? total[r][v] + sum[side][r][v] : sum[side][r][v];
    }
  }
  for (int r = 0; r < R; r++)
    for (int v = 0; v < N; v++) store(out + r * columns + v * WIDTH, total[r][v] * scale);
}

// y[row][.] += shrunk[row] * b, for a block of columns.
template <class K, class Number, int R>
inline void expand(const typename K::Input* shrunk, int64_t columns, const typename K::Factor* b, int64_t steps, Number* const* y) {
  constexpr int N = AVX512 || R == 1 ? BLOCK / WIDTH : LANES / WIDTH;
  for (int low = 0; low < BLOCK; low += N * WIDTH) {
    Floats sum[R][N];
    for (int r = 0; r < R; r++)
      for (int v = 0; v < N; v++) sum[r][v] = load(y[r] + low + v * WIDTH);
    for (int64_t i = 0; i < steps; i++) {
      K factors[N];
      for (int v = 0; v < N; v++) factors[v] = K(b + (i * BLOCK + low + v * WIDTH) * K::DEPTH);
      for (int r = 0; r < R; r++)
        for (int v = 0; v < N; v++) factors[v].add(sum[r][v], shrunk + r * columns + i * K::DEPTH);
    }
    for (int r = 0; r < R; r++)
      for (int v = 0; v < N; v++) store(y[r] + low + v * WIDTH, sum[r][v]);
  }
}

// Return a row in the type that is multiplied, padded with zeros to `padded` numbers: itself where it is so already.
template <class Input, class Number>
inline const Input* prepared(const Number* row, int64_t count, int64_t padded, Input* room) {
  constexpr bool same = std::is_same<Input, Number>::value;
  if (same && count == padded) return (const Input*)row;
  room[padded - 1] = 0;
  int64_t i = 0;
  for (; i + WIDTH <= count; i += WIDTH) store(room + i, load(row + i));
  if (i == count) return room;
  Number from[WIDTH] = {};
  Input to[WIDTH];
  memcpy(from, row + i, (count - i) * sizeof(Number));
  store(to, load(from));
  memcpy(room + i, to, (count - i) * sizeof(Input));
  return room;
}

template <class K, class Number>
struct Kernel {
  typedef typename K::Factor Factor;
  typedef typename K::Input Input;
  const Number* x;
  Number* y;
  int64_t x_stride, y_stride;
  const Step& step;
  const Module& m;
  float scale;
  int64_t parts;

  // One group, or what thread `part` of `parts` does of it: all of the shrinking, every parts-th block of columns.
  template <int R>
  void group(int64_t index, int first, int64_t part, std::vector<float>& room) const {
    const int64_t *rows = step.groups + index * ROWS + first, slot = step.slots[index], rank = m.ranks[slot];
    int64_t steps = (m.d_in + K::DEPTH - 1) / K::DEPTH, padded = steps * K::DEPTH;
    int64_t columns = (m.slices * rank + LANES - 1) / LANES * LANES;
    room.resize(R * (2 * columns + padded));
    float* shrunk = room.data();
    Input *spare = (Input*)(shrunk + R * columns), *own = spare + R * columns;
    const Input* inputs[R];
    for (int r = 0; r < R; r++)
      inputs[r] = prepared(x + rows[r] * x_stride, m.d_in, padded, own + r * padded);
    bool cold = !index || step.slots[index - 1] != slot;
    Fetch factors((const Factor*)m.b + slot * m.b_size, cold ? m.b_size * sizeof(Factor) : 0, steps);
    shrink_all<R>(inputs, (const Factor*)m.a + slot * m.a_size, steps, columns, shrunk, factors);
    expand_all<R>(index, rows, part, columns, prepared(shrunk, R * columns, R * columns, spare));
  }

  template <int R>
  void shrink_all(const Input* const* from, const Factor* a, int64_t steps, int64_t columns, float* out,
                  Fetch& fetch) const {
    constexpr int SIDE = R <= 2 ? PARTS : 1;
    int64_t low = 0;
    if (AVX512)
      for (; low + 3 * LANES <= columns; low += 3 * LANES)
        shrink<K, R, 3, R == 1 ? SIDE : 1>(from, a + low * K::DEPTH, steps, columns, scale, out + low, fetch);
    if (AVX512)
      for (; low + 2 * LANES <= columns; low += 2 * LANES)
        shrink<K, R, 2, SIDE>(from, a + low * K::DEPTH, steps, columns, scale, out + low, fetch);
    for (; low < columns; low += LANES)
      shrink<K, R, 1, SIDE>(from, a + low * K::DEPTH, steps, columns, scale, out + low, fetch);
  }

  template <int R>
  void expand_all(int64_t index, const int64_t* rows, int64_t part, int64_t columns, const Input* shrunk) const {
    int64_t slot = step.slots[index], rank = m.ranks[slot], block = 0;
    int64_t mine = std::max<int64_t>(m.starts[m.slices] / BLOCK / parts, 1);
    bool more = index + 1 < step.count;
    int64_t next = more ? step.slots[index + 1] : slot;
    Fetch factors((const Factor*)m.a + next * m.a_size, next != slot ? m.a_size * sizeof(Factor) : 0, mine);
    auto b = (const Factor*)m.b + slot * m.b_size;
    std::array<Fetch, R> inputs;
    for (int r = 0; r < R; r++)
      inputs[r] = Fetch(x + rows[more ? ROWS + r : r] * x_stride, more ? m.d_in * sizeof(Number) : 0, mine);
    for (int64_t slice = 0; slice < m.slices; slice++)
      for (int64_t low = m.starts[slice], end = m.starts[slice + 1]; low < end; low += BLOCK, b += BLOCK * rank) {
        if (block++ % parts != part) continue;
        factors.some();
        Number *to[R], spare[R][BLOCK], *out[R];
        for (int r = 0; r < R; r++) {
          out[r] = to[r] = y + rows[r] * y_stride + low;
          if (R < 4) continue;
          for (int c = 0; c < BLOCK; c += LINE / sizeof(Number)) __builtin_prefetch(to[r] + AHEAD + c, 1);
          inputs[r].some();
        }
        bool whole = low + BLOCK <= end;
        for (int r = 0; r < R && !whole; r++)
          out[r] = (Number*)memcpy(spare[r], to[r], (end - low) * sizeof(Number));
        expand<K, Number, R>(shrunk + slice * rank, columns, b, rank / K::DEPTH, out);
        for (int r = 0; r < R && !whole; r++) memcpy(to[r], spare[r], (end - low) * sizeof(Number));
      }
  }

  void rows_of(int64_t index, int64_t part, std::vector<float>& room) const {
    int64_t size = step.sizes[index];
    if (size == 1) return group<1>(index, 0, part, room);
    if (size == 2) return group<2>(index, 0, part, room);
    if (AVX512 && size > 4) return group<AVX512 ? 8 : 4>(index, 0, part, room);
    for (int first = 0; first < size; first += 4) group<4>(index, first, part, room);
  }
};

template <class K, class Number>
void add(const void* x, void* y, int64_t x_stride, int64_t y_stride, const Step& step, const Module& m, float scale) {
  // more threads than groups: they share the columns of a group
  int64_t parts = std::max<int64_t>(std::min(omp_get_max_threads() / step.count, m.starts[m.slices] / BLOCK), 1);
  Kernel<K, Number> kernel{(const Number*)x, (Number*)y, x_stride, y_stride, step, m, scale, parts};
#pragma omp parallel
  {
    std::vector<float> room;
#pragma omp for schedule(static) nowait
    for (int64_t task = 0; task < step.count * parts; task++)
      if (m.ranks[step.slots[task / parts]]) kernel.rows_of(task / parts, task % parts, room);
  }
}

template <class Number>
constexpr auto chosen(int64_t arithmetic) {
  return arithmetic == 0 ? add<Single, Number> : arithmetic == 1 ? add<Pair, Number> : add<Rounded, Number>;
}

struct Stacks {  // as in module_factors.py: vLLM's, by slice, [slots][rows][d_in] and [slots][width of the slice][rows]
  const void *const *a, *const *b;
  int64_t rows, type;
};

inline float wide(float x) { return x; }
inline float wide(_Float16 x) { return x; }
inline float wide(Half x) { return std::bit_cast<float>(uint32_t(x) << 16); }
inline void narrow(float* to, float x) { *to = x; }
inline void narrow(Half* to, float x) { *to = std::bit_cast<uint32_t>(x) >> 16; }
inline bool is_half(float x) { return !(std::bit_cast<uint32_t>(x) & 0xffff); }

// The adapter in one slot of vLLM's stacks.
template <class S>
struct Unpacked {
  const Module& m;
  const Stacks& stacks;
  int64_t slot;

  int64_t width(int64_t slice) const { return m.starts[slice + 1] - m.starts[slice]; }
  float a(int64_t slice, int64_t k, int64_t i) const {
    return wide(((const S*)stacks.a[slice])[(slot * stacks.rows + k) * m.d_in + i]);
  }
  float b(int64_t slice, int64_t o, int64_t k) const {
    return wide(((const S*)stacks.b[slice])[(slot * width(slice) + o) * stacks.rows + k]);
  }

  bool used(int64_t slice, int64_t k) const {
    bool in = false, out = false;
    for (int64_t i = 0; i < m.d_in && !in; i++) in = a(slice, k, i) != 0;
    for (int64_t o = 0; o < width(slice) && in && !out; o++) out = b(slice, o, k) != 0;
    return out;
  }

  int64_t rank() const {
    int64_t most = 0;
    for (int64_t slice = 0; slice < m.slices; slice++)
      for (int64_t k = stacks.rows; k > most; k--)
        if (used(slice, k - 1)) most = k;
    return most;
  }

  bool halves(int64_t rank) const {
    bool all = true;
    for (int64_t slice = 0; slice < m.slices && all; slice++) {
      for (int64_t k = 0; k < rank; k++)
        for (int64_t i = 0; i < m.d_in; i++) all &= is_half(a(slice, k, i));
      for (int64_t o = 0; o < width(slice); o++)
        for (int64_t k = 0; k < rank; k++) all &= is_half(b(slice, o, k));
    }
    return all;
  }

  template <class F>
  void pack() const {
    constexpr int64_t DEPTH = sizeof(float) / sizeof(F);
    int64_t rank = m.ranks[slot], rows = std::min(rank, stacks.rows), columns = (m.slices * rank + LANES - 1) / LANES * LANES;
    F *to_a = (F*)m.a + slot * m.a_size, *to_b = (F*)m.b + slot * m.b_size;
    std::fill_n(to_a, m.a_size, F(0));
    std::fill_n(to_b, m.b_size, F(0));
    for (int64_t slice = 0; slice < m.slices; slice++) {
      for (int64_t k = 0; k < rows; k++)
        for (int64_t i = 0; i < m.d_in; i++)
          narrow(to_a + (i / DEPTH * columns + slice * rank + k) * DEPTH + i % DEPTH, a(slice, k, i));
      for (int64_t o = 0; o < width(slice); o++)
        for (int64_t k = 0; k < rows; k++)
          narrow(to_b + (o / BLOCK * rank + k / DEPTH * DEPTH) * BLOCK + o % BLOCK * DEPTH + k % DEPTH, b(slice, o, k));
      to_b += (width(slice) + BLOCK - 1) / BLOCK * BLOCK * rank;
    }
  }
};

template <class Does>
auto unpacked(int64_t module, int64_t stacks, int64_t slot, Does does) {
  const Module& m = *(const Module*)module;
  const Stacks& of = *(const Stacks*)stacks;
  if (of.type == 0) return does(Unpacked<float>{m, of, slot});
  if (of.type == 1) return does(Unpacked<Half>{m, of, slot});
  return does(Unpacked<_Float16>{m, of, slot});
}

int64_t used_rank(int64_t module, int64_t stacks, int64_t slot) {
  return unpacked(module, stacks, slot, [](auto adapter) { return adapter.rank(); });
}

bool is_bfloat16(int64_t module, int64_t stacks, int64_t slot, int64_t rank) {
  return unpacked(module, stacks, slot, [=](auto adapter) { return adapter.halves(rank); });
}

void pack_slot(int64_t module, int64_t stacks, int64_t slot) {
  bool single = !((const Module*)module)->arithmetic;
  unpacked(module, stacks, slot, [=](auto adapter) {
    return single ? adapter.template pack<float>() : adapter.template pack<Half>();
  });
}

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

// Rows of a tensor [..., width] whose leading dimensions are one.
struct Rows {
  int64_t width, count, stride;
  bool even;
  explicit Rows(const Tensor& of) : width(of.size(of.dim() - 1)), count(width ? of.numel() / width : 0) {
    int64_t last = of.dim() - 1;
    stride = last ? of.stride(last - 1) : width;
    even = of.stride(last) == 1;
    for (int64_t d = last - 2; d >= 0; d--) even &= of.size(d) == 1 || of.stride(d) == of.stride(d + 1) * of.size(d + 1);
  }
};

void add_rows(Tensor y, const Tensor& x, const Step& step, const Module& module, float scale) {
  if (!module.largest) return;
  Rows in(x), out(y);
  STD_TORCH_CHECK(
      step.rows <= std::min(in.count, out.count) && in.width == module.d_in && out.width >= module.d_out, "a step of ",
      step.rows, " rows and a module of ", module.d_in, " x ", module.d_out, " were given inputs of ", in.count, " x ",
      in.width, " and outputs of ", out.count, " x ", out.width);
  if (!step.count) return;
  ScalarType type = x.scalar_type();
  bool half = type == ScalarType::BFloat16;
  if (type != y.scalar_type() || !(half || type == ScalarType::Float) || !in.even || !out.even) {
    Tensor inputs = torch::stable::contiguous(torch::stable::to(x, ScalarType::Float));
    Tensor outputs = torch::stable::contiguous(torch::stable::to(y, ScalarType::Float));
    add_rows(outputs, inputs, step, module, scale);
    torch::stable::copy_(y, outputs);
    return;
  }
  auto add = half ? chosen<Half>(module.arithmetic) : chosen<float>(module.arithmetic);
  add(x.data_ptr(), y.mutable_data_ptr(), in.stride, out.stride, step, module, scale);
}

struct Layer {
  const Module* module;
  const Step* step;
};

std::vector<Layer> layers;

void set_layer(int64_t number, int64_t module, int64_t step) {
  layers.resize(std::max<size_t>(layers.size(), number + 1));
  layers[number] = {(const Module*)module, (const Step*)step};
}

void add_step(Tensor y, const Tensor x, int64_t step, int64_t module, double scale) {
  add_rows(y, x, *(const Step*)step, *(const Module*)module, scale);
}

void add_lora(Tensor y, const Tensor x, int64_t layer) {
  const Layer& of = layers.at(layer);
  if (of.step->count) add_rows(y, x, *of.step, *of.module, 1);
}

// y += x * packed, with factors as those of B in Pair: [blocks][d_in / 2][BLOCK][2].
void add_product(Tensor y, const Tensor x, const Tensor packed) {
  Rows in(x), out(y);
  int64_t blocks = packed.size(0), steps = packed.size(1);
  STD_TORCH_CHECK(in.width == 2 * steps && out.width == blocks * BLOCK && in.count == out.count && in.even && out.even,
                  "a product of ", in.count, " x ", in.width, " with ", 2 * steps, " x ", blocks * BLOCK, " was given room for ",
                  out.count, " x ", out.width);
  auto factors = (const Half*)packed.data_ptr();
  auto from = (const float*)x.data_ptr();
  auto to = (float*)y.mutable_data_ptr();
  auto rows = [&]<int R>(int64_t first, int64_t block) {
    float* outputs[R];
    for (int r = 0; r < R; r++) outputs[r] = to + (first + r) * out.stride + block * BLOCK;
    expand<Pair, float, R>(from + first * in.stride, in.stride, factors + block * steps * BLOCK * 2, steps, outputs);
    return R;
  };
#pragma omp parallel for schedule(static)
  for (int64_t block = 0; block < blocks; block++)
    for (int64_t done = 0, left; (left = in.count - done) > 0;)
      done += AVX512 && left >= 8 ? rows.operator()<AVX512 ? 8 : 4>(done, block)
              : left >= 4         ? rows.operator()<4>(done, block)
              : left >= 2         ? rows.operator()<2>(done, block)
                                  : rows.operator()<1>(done, block);
}

}  // namespace

// Steps and modules by address: arrays of numpy that their owners keep.
STABLE_TORCH_LIBRARY_FRAGMENT(lorecall, m) {
  m.def("set_layer(int number, int module, int step) -> ()");
  m.def("used_rank(int module, int stacks, int slot) -> int");
  m.def("is_bfloat16(int module, int stacks, int slot, int rank) -> bool");
  m.def("pack_slot(int module, int stacks, int slot) -> ()");
  m.def("add_step(Tensor(a!) y, Tensor x, int step, int module, float scale) -> ()");
  m.def("add_lora(Tensor(a!) y, Tensor x, int layer) -> ()");
  m.def("add_product(Tensor(a!) y, Tensor x, Tensor packed) -> ()");
}

STABLE_TORCH_LIBRARY_IMPL(lorecall, CompositeExplicitAutograd, m) {
  m.impl("set_layer", TORCH_BOX(&set_layer));
  m.impl("used_rank", TORCH_BOX(&used_rank));
  m.impl("is_bfloat16", TORCH_BOX(&is_bfloat16));
  m.impl("pack_slot", TORCH_BOX(&pack_slot));
}

STABLE_TORCH_LIBRARY_IMPL(lorecall, CPU, m) {
  m.impl("add_step", TORCH_BOX(&add_step));
  m.impl("add_lora", TORCH_BOX(&add_lora));
  m.impl("add_product", TORCH_BOX(&add_product));
}
