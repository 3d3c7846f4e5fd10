// Tests every table of the target's architecture without Python: products bit for bit against the scalar chain that
// table.hpp defines, everything else against the C++ library in double, and vectors against single elements. Prints a
// digest of all results per table: tables other than generic must agree on it, across architectures too.
#include <algorithm>
#include <limits>

#include "bf16_test.hpp"
#include "checks.hpp"
#include "kernels/table.hpp"
#include "tile_instructions.hpp"

namespace {

using fp::Activation;
using fp::Kernels;
using fp::Loss;
using namespace checks;

template <class T>
struct Suite {
  const Kernels<T>& k;
  bool fused;  // the generic table multiplies, then adds
  const char* name;
  Digest digest{};
  double epsilon = sizeof(T) == 4 ? 1.2e-7 : 2.3e-16;

  T madd(T a, T b, T c) const {
    if (fused) return std::fma(a, b, c);
    volatile T product = a * b;
    return product + c;
  }

  // The ordered sum of table.hpp, after the blocks whose sum is `earlier`, if there are any.
  T chain(const T* a, int64_t a_col, const T* b, int64_t b_row, int64_t count, int64_t block_size,
          const T* earlier = nullptr) const {
    T total = earlier ? *earlier : T(0);
    for (int64_t begin = 0; begin < count; begin += block_size) {
      T block = 0;
      for (int64_t p = begin; p < count && p < begin + block_size; ++p) block = madd(a[p * a_col], b[p * b_row], block);
      total = begin == 0 && !earlier ? block : total + block;
    }
    return total;
  }

  static bool same_all(const std::vector<T>& a, const std::vector<T>& b) {
    return a.empty() || std::memcmp(a.data(), b.data(), a.size() * sizeof(T)) == 0;
  }

  // Leaves `percent` of a's elements, zeros of both signs for the others; of row 3 one, so small that the sum of the
  // block is -0 where it is multiplied by -0.5 and more, and of row 4 none.
  static void thin_out(int64_t m, int64_t depth, int64_t a_row, int64_t a_col, uint32_t seed, int percent,
                       std::vector<T>& a) {
    const auto chance = numbers<T>(std::size_t(m * depth), seed);
    for (int64_t i = 0; i < m; ++i) {
      for (int64_t p = 0; p < depth; ++p) {
        T& x = a[std::size_t(i * a_row + p * a_col)];
        const T zero = x < 0 ? T(-0.0) : T(0);
        if (chance[std::size_t(i * depth + p)] * 50 + 50 >= percent || i == 4) x = zero;
        if (i == 3) x = p == 5 ? std::numeric_limits<T>::denorm_min() : zero;
      }
    }
  }

  // Rows of a matrix, `from` apart, as rows of whole registers and more, with `pad` after them.
  static std::vector<T> with_pads(const std::vector<T>& x, int64_t rows, int64_t cols, int64_t from, T pad) {
    const int64_t to = padded(cols);
    std::vector<T> y(std::size_t(rows * to), pad);
    for (int64_t i = 0; i < rows; ++i) std::copy_n(&x[std::size_t(i * from)], cols, &y[std::size_t(i * to)]);
    return y;
  }
  static int64_t padded(int64_t cols) { return (cols + 15) / 16 * 16; }

  // The product g, which gave c and velocity, with pads in b, in c and what its epilogue uses, or in both: it gives the
  // same, and c's zeros stay zeros, whatever stands beyond b.
  bool pads_stay(const fp::GemmArgs<T>& g, const std::vector<T>& b, const std::vector<T>& start,
                 const std::vector<T>& bias, const std::vector<T>& c, const std::vector<T>& velocity) {
    const T nan = std::numeric_limits<T>::quiet_NaN();
    const int64_t row = padded(g.n);
    const auto right = with_pads(b, g.k, g.n, g.b_row, nan), wide = with_pads(start, g.m, g.n, g.c_row, 0),
               bias_row = with_pads(bias, 1, g.n, g.n, 0);
    for (int which = 1; which < 4; ++which) {
      fp::GemmArgs<T> p = g;
      p.b_padded = which & 1, p.c_padded = which & 2;
      const auto& before = p.c_padded ? wide : start;
      auto result = before, moved = before, pre = before;
      if (p.b_padded) p.b = right.data(), p.b_row = row;
      if (p.c_padded) {
        p.c_row = p.epilogue.saved_row = row;
        if (g.epilogue.pre) p.epilogue.pre_row = row;
        p.epilogue.bias = bias_row.data();
      }
      p.c = result.data();
      if (g.epilogue.pre) p.epilogue.pre = pre.data();
      p.epilogue.saved = before.data();
      p.epilogue.velocity = moved.data();
      k.gemm(p);
      const auto agree = [&](const std::vector<T>& with, const std::vector<T>& without) {
        for (int64_t i = 0; i < g.m; ++i)
          for (int64_t j = 0; j < (p.c_padded ? row : g.n); ++j) {
            const T received = with[std::size_t(i * p.c_row + j)];
            if (j < g.n ? !same(received, without[std::size_t(i * g.c_row + j)]) : received != 0) return false;
          }
        return true;
      };
      if (!agree(result, c) || !agree(moved, velocity)) return false;
    }
    return true;
  }

  // Whether g left in sums, which was start, what a row of ones times b is, and nothing beyond.
  bool are_column_sums(const fp::GemmArgs<T>& g, const std::vector<T>& sums, const std::vector<T>& start) const {
    const std::vector<T> ones(std::size_t(g.k) + 1, T(1));
    for (int64_t j = 0; j < g.n; ++j) {
      const T* before = g.accumulate ? &start[std::size_t(j)] : nullptr;
      if (!same(sums[std::size_t(j)], chain(ones.data(), 1, g.b + j, g.b_row, g.k, g.block, before))) return false;
    }
    return std::equal(sums.begin() + g.n, sums.end(), start.begin() + g.n);
  }

  // nonzeros: of 100 elements of a.
  void product(int64_t m, int64_t n, int64_t depth, bool strided, uint32_t seed, int nonzeros = 100,
               bool infinite = false) {
    const int64_t a_ld = (strided ? m : depth) + 3, b_row = n + 5, c_row = n + 2;
    auto a = numbers<T>(std::size_t((strided ? depth : m) * a_ld + 1), seed);
    auto b = numbers<T>(std::size_t(depth * b_row + 1), seed + 1);
    if (nonzeros < 100) thin_out(m, depth, strided ? 1 : a_ld, strided ? a_ld : 1, seed + 4, nonzeros, a);
    if (infinite) b[std::size_t(depth / 2 * b_row + n / 2)] = std::numeric_limits<T>::infinity();
    auto bias = numbers<T>(std::size_t(n), seed + 2);
    auto start = numbers<T>(std::size_t(m * c_row), seed + 3);
    // The same a, its rows from the last to the first.
    const int64_t a_rows = strided ? depth : m, a_first = 2;
    std::vector<T> turned(a.size() + std::size_t(a_first));
    std::vector<const T*> each(std::size_t(a_rows) + 1);
    for (int64_t r = 0; r < a_rows; ++r) {
      T* to = &turned[std::size_t((a_rows - 1 - r) * a_ld)];
      std::copy_n(&a[std::size_t(r * a_ld)], a_ld - 3, to + a_first);
      each[std::size_t(r)] = to;
    }
    const bool leaves_out = std::strncmp(name, "avx", 3) == 0;
    // 0 to 3: store, forward with relu, backward through relu, sgd; 4: forward, its sums not wanted; 5: further blocks.
    for (int mode = 0; mode < 6; ++mode) {
      constexpr fp::EpilogueKind kinds[] = {fp::EpilogueKind::store,    fp::EpilogueKind::forward,
                                            fp::EpilogueKind::backward, fp::EpilogueKind::sgd,
                                            fp::EpilogueKind::forward,  fp::EpilogueKind::store};
      auto c = start, pre = start, velocity = start;
      std::vector<T> room(std::size_t(k.gemm_scratch(m, n, depth)) + 64 / sizeof(T));
      T* scratch = room.data();
      while (reinterpret_cast<uintptr_t>(scratch) % 64) ++scratch;
      fp::GemmArgs<T> g{};
      g.m = m, g.n = n, g.k = depth;
      g.a = a.data(), g.a_row = strided ? 1 : a_ld, g.a_col = strided ? a_ld : 1;
      g.b = g.b_next = b.data(), g.b_row = b_row;
      g.c = c.data(), g.c_row = c_row;
      g.scratch = scratch;
      g.block = strided ? fp::kRowBlock : fp::kBlock;
      g.accumulate = mode == 5;
      g.epilogue.kind = kinds[mode];
      g.epilogue.activation = mode ? Activation::relu : Activation::linear;
      g.epilogue.bias = bias.data();
      g.epilogue.pre = mode == 1 ? pre.data() : nullptr;
      g.epilogue.pre_row = c_row;
      g.epilogue.saved = start.data();
      g.epilogue.saved_row = c_row;
      g.epilogue.velocity = velocity.data();
      g.epilogue.learning_rate = T(0.25);
      g.epilogue.momentum = T(0.75);
      auto sums = start;  // a place more than there are columns
      const bool has_sums = m > 0 && mode % 2;
      if (has_sums) g.column_sums = sums.data();
      k.gemm(g);
      if (has_sums && !are_column_sums(g, sums, start))
        return fail("%s gemm<%zu> %lldx%lldx%lld strided=%d mode=%d: the sums of b's columns", name, sizeof(T),
                    (long long)m, (long long)n, (long long)depth, strided, mode);
      g.column_sums = nullptr;
      if (leaves_out && nonzeros < 100 && mode < 5 && !k.leaves_out_zeros(g))
        fail("%s gemm<%zu> %lldx%lldx%lld strided=%d: zeros are not left out", name, sizeof(T), (long long)m,
             (long long)n, (long long)depth, strided);
      if (k.scattered != fp::Scattered::never) {
        auto scattered = start, scattered_pre = start, scattered_velocity = start;
        fp::GemmArgs<T> s = g;
        s.a = nullptr, (strided ? s.a_col : s.a_row) = 0;
        s.a_rows = each.data(), s.a_first = a_first;
        s.c = scattered.data(), s.epilogue.velocity = scattered_velocity.data();
        auto scattered_sums = start;
        if (has_sums) s.column_sums = scattered_sums.data();
        if (g.epilogue.pre) s.epilogue.pre = scattered_pre.data();
        k.gemm(s);
        if (!same_all(c, scattered) || !same_all(pre, scattered_pre) || !same_all(velocity, scattered_velocity) ||
            !same_all(sums, scattered_sums))
          return fail("%s gemm<%zu> %lldx%lldx%lld strided=%d mode=%d: scattered rows give other bits", name, sizeof(T),
                      (long long)m, (long long)n, (long long)depth, strided, mode);
      }
      if (!pads_stay(g, b, start, bias, c, velocity))
        return fail("%s gemm<%zu> %lldx%lldx%lld strided=%d mode=%d: pads change the result, or are changed", name,
                    sizeof(T), (long long)m, (long long)n, (long long)depth, strided, mode);
      for (int64_t i = 0; i < m; ++i) {
        for (int64_t j = 0; j < c_row; ++j) {
          const std::size_t at = std::size_t(i * c_row + j);
          T sum = j < n ? chain(&a[std::size_t(i * g.a_row)], g.a_col, &b[std::size_t(j)], b_row, depth, g.block,
                                mode == 5 ? &start[at] : nullptr)
                        : T(0);
          T expected = sum, expected_pre = start[at], expected_velocity = start[at];
          if (mode == 1 || mode == 4) {
            expected_pre = j < n ? sum + bias[std::size_t(j)] : start[at];
            expected = expected_pre < 0 ? T(0) : expected_pre;
          } else if (mode == 2) {
            expected = start[at] > 0 ? sum : T(0);
          } else if (mode == 3) {
            expected_velocity = madd(T(-0.25), sum, T(0.75) * start[at]);
            expected = start[at] + expected_velocity;
          }
          if (j >= n) expected = expected_pre = expected_velocity = start[at];  // beyond the row: untouched
          if (!same(c[at], expected) || (mode == 1 && !same(pre[at], expected_pre)) ||
              (mode == 3 && !same(velocity[at], expected_velocity))) {
            return fail(
                "%s gemm<%zu> %lldx%lldx%lld strided=%d mode=%d at (%lld, %lld): expected %.17g; received %.17g", name,
                sizeof(T), (long long)m, (long long)n, (long long)depth, strided, mode, (long long)i, (long long)j,
                double(expected), double(c[at]));
          }
        }
      }
      if (!infinite) digest.add(c);  // which NaN comes out depends on the architecture
    }
  }

  void products() {
    const int64_t sizes[] = {0, 1, 2, 7, 8, 9, 15, 16, 17, 31, 33, 48, 65, 257};
    constexpr uint32_t count = sizeof sizes / sizeof sizes[0];
    for (uint32_t i = 0; i < count; ++i) {
      for (uint32_t j = 0; j < count; ++j) {
        const uint32_t seed = count * i + j + 1;
        product(sizes[i], sizes[j], sizes[(3 * i + j) % count], seed % 3 == 0, seed * 11);
      }
    }
    for (int64_t n : {1, 9, 13, 17, 25, 33, 49}) {  // a single column beyond whole registers
      for (int64_t m : {3, 5, 8, 22, 32}) {
        for (int64_t depth : {1, 2, 3, 4, 5, 130, 259}) {
          for (bool strided : {false, true}) product(m, n, depth, strided, uint32_t(n + m + depth));
        }
      }
    }
    product(70, 100, 1300, false, 5);  // several blocks
    product(70, 100, 600, true, 6);
    product(130, 41, 500, false, 9);  // b packed on AVX2
    product(41, 130, 500, true, 10);
    product(66, 65, 2100, false, 7);  // in chunks, everywhere
    product(250, 257, 530, true, 8);  // a packed as well
    product(130, 25, 70, true, 11);   // the last column apart, rows in groups
    product(259, 40, 300, true, 12);  // columns of a that are far, in tiles of four rows and three
  }

  // What is mostly zeros.
  void sparse_products() {
    const int64_t rows[] = {64, 65, 100, 145};
    uint32_t seed = 0;
    for (int64_t n : {48, 49, 64, 112, 129}) {
      for (int64_t depth : {129, 300, 577}) {
        for (bool strided : {false, true}) {
          ++seed;
          product(rows[seed / 2 % 4], n, depth, strided, seed, 1 + int(seed % 20), seed % 5 == 0);
        }
      }
    }
    for (bool strided : {false, true}) product(130, 123, 200, strided, 8, 10);  // rows of b that are copied
    product(32, 300, 130, false, 9, 10);
    product(300, 130, 32, true, 10, 10);
    product(64, 64, 128, false, 11, 0);
    product(64, 64, 128, true, 12, 0);
  }

  void sums() {
    for (int64_t width : {1, 5, 16, 37, 200}) {
      for (int64_t n : {0, 1, 255, 256, 600}) {
        auto a = numbers<T>(std::size_t(n * (width + 1) + 1), 3);
        std::vector<T> out(std::size_t(width), T(9)), one(std::size_t(n) + 1, T(1));
        k.column_sums(n, width, a.data(), width + 1, out.data(), false, fp::kRowBlock);
        for (int64_t j = 0; j < width; ++j) {
          T expected = chain(one.data(), 1, &a[std::size_t(j)], width + 1, n, fp::kRowBlock);
          if (out[std::size_t(j)] != expected) fail("%s column_sums %lldx%lld", name, (long long)n, (long long)width);
        }
        digest.add(out);
        std::vector<T> turned(std::size_t(n * width) + 1);
        k.transpose(n, width, a.data(), width + 1, turned.data(), n);
        for (int64_t i = 0; i < n; ++i) {
          for (int64_t j = 0; j < width; ++j) {
            if (turned[std::size_t(j * n + i)] != a[std::size_t(i * (width + 1) + j)]) fail("%s transpose", name);
          }
        }
      }
    }
    for (int64_t count = 0; count < 70; ++count) {
      auto x = numbers<T>(std::size_t(count) + 1, 4), y = numbers<T>(std::size_t(count) + 1, 5), before = y;
      k.add(count, x.data(), y.data());
      for (int64_t i = 0; i <= count; ++i) {
        const std::size_t at = std::size_t(i);
        if (y[at] != (i < count ? before[at] + x[at] : before[at])) fail("%s add %lld", name, (long long)count);
      }
    }
  }

  static double value(Activation a, double z) {
    switch (a) {
      case Activation::linear:
        return z;
      case Activation::relu:
        return z > 0 ? z : 0;
      case Activation::leaky_relu:
        return z > 0 ? z : 0.25 * z;
      case Activation::elu:
        return z > 0 ? z : 0.25 * std::expm1(z);
      case Activation::selu:
        return 1.0507009873554805 * (z > 0 ? z : 1.6732632423543772 * std::expm1(z));
      case Activation::gelu:
        return z * 0.5 * std::erfc(-z / std::sqrt(2.0));
      case Activation::gelu_tanh:
        return z / (1 + std::exp(-2 * 0.7978845608028654 * (z + 0.044715 * z * z * z)));
      case Activation::silu:
        return z / (1 + std::exp(-z));
      case Activation::mish:
        return z * std::tanh(std::log1p(std::exp(z)));
      case Activation::softplus:
        return z > 30 ? z : std::log1p(std::exp(z));
      case Activation::softsign:
        return z / (1 + std::fabs(z));
      case Activation::sigmoid:
        return 1 / (1 + std::exp(-z));
      case Activation::tanh:
        return std::tanh(z);
      case Activation::step:
        return z >= 0 ? 1 : 0;
      case Activation::softmax:
        break;
    }
    return 0;
  }

  void activations() {
    for (int32_t number = 0; number < int32_t(Activation::softmax); ++number) {
      const auto act = static_cast<Activation>(number);
      const int64_t count = 403;
      auto z = numbers<T>(count, 9), dy = numbers<T>(count, 10);
      for (T& v : z) v *= 12;
      z[0] = 0;
      std::vector<T> y(count), dz(count);
      k.activation_forward(act, T(0.25), count, z.data(), y.data());
      const auto& saved = fp::derivative_needs_z(act) ? z : y;
      k.activation_backward(act, T(0.25), count, dy.data(), saved.data(), dz.data());
      for (std::size_t i = 0; i < std::size_t(count); ++i) {
        const double x = double(z[i]), expected = value(act, x);
        // gelu_tanh's argument reaches 70 and rounding it costs as many units; the others are good to a few.
        const double bound = (act == Activation::gelu_tanh ? 200 : 16) * epsilon;
        if (std::fabs(double(y[i]) - expected) > bound * std::fabs(expected) + epsilon / 16) {
          fail("%s activation %d at %.9g: expected %.17g; received %.17g", name, number, x, expected, double(y[i]));
        }
        if (act != Activation::step && std::fabs(x) > 1e-3) {
          const double h = 1e-5, slope = (value(act, x + h) - value(act, x - h)) / (2 * h) * double(dy[i]);
          // From y, elu's and selu's slopes near 0 are differences of nearly equal numbers; the reference is itself a
          // difference quotient.
          const double slack = sizeof(T) == 4 ? 3e-6 + 3e-5 * std::fabs(slope) : 1e-8;
          if (std::fabs(double(dz[i]) - slope) > slack) {
            fail("%s derivative %d at %.9g: expected %.12g; received %.12g", name, number, x, slope, double(dz[i]));
          }
        }
        T alone, alone_dz;  // an element's result does not depend on its place
        k.activation_forward(act, T(0.25), 1, &z[i], &alone);
        k.activation_backward(act, T(0.25), 1, &dy[i], &saved[i], &alone_dz);
        if (!same(alone, y[i]) || !same(alone_dz, dz[i])) fail("%s activation %d: tail differs", name, number);
      }
      digest.add(y);
      digest.add(dz);
      const T nan = std::nan(""), inf = T(INFINITY);
      T out = 0;
      k.activation_forward(act, T(0.25), 1, &nan, &out);
      if (act != Activation::step && out == out) fail("%s activation %d: NaN does not pass", name, number);
      k.activation_forward(act, T(0.25), 1, &inf, &out);
      if (out != out) fail("%s activation %d: NaN at infinity", name, number);
    }
  }

  void losses() {
    for (int64_t width : {1, 2, 3, 7, 8, 9, 10, 16, 17, 20, 24, 25, 31, 32, 33, 40, 41, 48, 49, 100}) {
      const int64_t n = 19;
      auto z = numbers<T>(std::size_t(n * width), 21);
      for (T& v : z) v *= 30;
      std::vector<T> y(z.size()), gradient(z.size());
      std::vector<int64_t> label(n);
      std::vector<double> lost(n);
      for (int64_t i = 0; i < n; ++i) label[std::size_t(i)] = (width - 1 + 7 * i) % width;
      k.softmax_forward(n, width, z.data(), width, y.data(), width);
      fp::LossArgs<T> args{};
      args.kind = Loss::sparse_categorical_cross_entropy_logits;
      args.n = n, args.width = width;
      args.prediction = z.data(), args.prediction_row = width;
      args.label = label.data();
      args.scale = T(0.5);
      args.losses = lost.data();
      args.gradient = gradient.data(), args.gradient_row = width;
      k.loss(args);
      for (int64_t i = 0; i < n; ++i) {
        const T* row = &z[std::size_t(i * width)];
        double top = double(row[0]), total = 0;
        for (int64_t j = 0; j < width; ++j) top = std::fmax(top, double(row[j]));
        for (int64_t j = 0; j < width; ++j) total += std::exp(double(row[j]) - top);
        const int64_t t = label[std::size_t(i)];
        const double loss = std::log(total) + top - double(row[t]);
        if (std::fabs(lost[std::size_t(i)] - loss) > 64 * epsilon * (1 + std::fabs(loss))) {
          fail("%s cross-entropy: expected %.12g; received %.12g", name, loss, lost[std::size_t(i)]);
        }
        for (int64_t j = 0; j < width; ++j) {
          const double p = std::exp(double(row[j]) - top) / total;
          const double d = 0.5 * (p - (j == t ? 1 : 0));
          const std::size_t at = std::size_t(i * width + j);
          if (std::fabs(double(y[at]) - p) > 64 * epsilon * p + epsilon) fail("%s softmax", name);
          if (std::fabs(double(gradient[at]) - d) > 64 * epsilon) fail("%s cross-entropy gradient", name);
        }
      }
      digest.add(y);
      digest.add(gradient);
      digest.add(lost);
    }
  }

  void dropout() {
    const int64_t n = 5, width = 37;
    auto x = numbers<T>(std::size_t(n * width), 31);
    std::vector<T> y(x.size());
    fp::DropoutArgs<T> args{
        n, width, 1000, x.data(), width, y.data(), width, 0x40000000u, T(4.0 / 3.0), 0x0123456789abcdefu, 0x1122334455u,
        17};
    k.dropout(args);
    for (int64_t i = 0; i < n; ++i) {
      for (int64_t j = 0; j < width; ++j) {
        const fp::Philox4 r = fp::philox4x32({{uint32_t(j / 4), uint32_t(args.row0 + i), uint32_t(args.step),
                                               (args.stream << 16) | uint32_t(args.step >> 32 & 0xffff)}},
                                             uint32_t(args.key), uint32_t(args.key >> 32));
        const std::size_t at = std::size_t(i * width + j);
        const T expected = r.v[j % 4] >= args.threshold ? x[at] * args.scale : T(0);
        if (y[at] != expected) fail("%s dropout at (%lld, %lld)", name, (long long)i, (long long)j);
      }
    }
    digest.add(y);
  }

  uint64_t run() {
    products();
    sparse_products();
    sums();
    activations();
    losses();
    dropout();
    return digest.value;
  }
};

void test_random_words(const fp::Table& table) {
  constexpr uint64_t key = 0x0123456789abcdefu, step = 0x1122334455u;
  for (const int64_t first : {int64_t(0), int64_t(512), (int64_t(1) << 32) - 16, (int64_t(5) << 32) + 32})
    for (int64_t count = 0; count < 200; ++count) {
      std::vector<uint32_t> expected(std::size_t(count) + 1, 77), words = expected;
      fp::philox_words(key, 17, step, count, expected.data(), first);
      table.random_words(key, 17, step, first, count, words.data());
      if (words != expected)
        fail("%s: %lld random words from block %lld", table.name, (long long)count, (long long)first);
    }
}

struct Tested {
  const fp::Table* table;
  bool usable;
};

}  // namespace

int main() {
  std::vector<Tested> tables;
#ifdef FP_BUILT_GENERIC
  tables.push_back({&fp::fp_table_generic, true});
#endif
#ifdef FP_BUILT_AVX2
  tables.push_back({&fp::fp_table_avx2, __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")});
#endif
#if defined(FP_EMULATED_AVX512)
  tables.push_back({&fp::fp_table_avx512, true});
#elif defined(FP_BUILT_AVX512)
  tables.push_back({&fp::fp_table_avx512, __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                                              __builtin_cpu_supports("avx512dq") &&
                                              __builtin_cpu_supports("avx512vl")});
#endif
#ifdef FP_BUILT_NEON
  tables.push_back({&fp::fp_table_neon, true});
#endif
  std::vector<const fp::Products16*> products;
  for (const Tested& t : tables)
    if (t.usable) products.push_back(t.table->bf16);
#ifdef FP_BUILT_AVX512_BF16
  if (__builtin_cpu_supports("avx512bf16")) {
    products.push_back(&fp::fp_bf16_avx512_bf16);
    products.push_back(&fp::fp_bf16_amx_software);
  } else {
    std::printf("avx512_bf16, amx_software, amx: this processor cannot run them\n");
  }
#endif
#ifdef FP_BUILT_AMX
  if (__builtin_cpu_supports("avx512bf16")) {
    if (const char* who = take_tile_instructions()) {
      products.push_back(&fp::fp_bf16_amx);
      std::printf("amx: instructions are run by %s\n", who);
    } else {
      std::printf("amx: nobody can run its instructions\n");
    }
  }
#endif
  uint64_t agreed = 0;
  int tested = 0;
  for (const Tested& t : tables) {
    if (!t.usable) {
      std::printf("%s: this processor cannot run it\n", t.table->name);
      continue;
    }
    test_random_words(*t.table);
    const bool fused = std::strcmp(t.table->name, "generic") != 0;
    const uint64_t f32 = Suite<float>{t.table->f32, fused, t.table->name}.run();
    const uint64_t f64 = Suite<double>{t.table->f64, fused, t.table->name}.run();
    const uint64_t both = f32 * 31 + f64;
    std::printf("digest %s %016llx\n", t.table->name, static_cast<unsigned long long>(both));
    if (fused && agreed != 0 && agreed != both) fail("%s: results differ from the table before", t.table->name);
    if (fused) agreed = both;
    ++tested;
  }
  test_bf16(products);
  for (const fp::Products16* p : products) test_mixed(*p);
  std::printf("%d tables tested, %d failures\n", tested, failures);
  return failures || tested == 0 ? 1 : 0;
}
