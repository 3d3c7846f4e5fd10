#include "bf16_test.hpp"

#include <algorithm>
#include <limits>

#include "checks.hpp"

namespace {

using namespace checks;
using fp::Activation;
using fp::EpilogueKind;
using fp::Products16;

using Floats = std::vector<float>;

// Rounding by arithmetic instead of bits.
float rounded(float x) {
  if (x != x || std::isinf(x)) return x;
  if (std::fabs(x) < 1.17549435e-38f) return std::copysign(0.0f, x);
  const double ulp = std::ldexp(1.0, std::ilogb(x) - 7), r = std::nearbyint(double(x) / ulp) * ulp;
  return std::fabs(r) >= std::ldexp(1.0, 128) ? std::copysign(std::numeric_limits<float>::infinity(), x) : float(r);
}

// Aligned memory full of NaN, so that what was not packed shows.
struct Memory {
  std::vector<char> bytes;
  explicit Memory(int64_t size) : bytes(std::size_t(size) + 64, char(0xff)) {}
  void* at() { return bytes.data() + begin(); }
  const void* at() const { return bytes.data() + begin(); }
  std::size_t size() const { return bytes.size() - 64; }

 private:
  std::size_t begin() const { return (64 - reinterpret_cast<uintptr_t>(bytes.data()) % 64) % 64; }
};

struct Case {
  int64_t m, n, k;
  bool left_transposed, right_transposed;
};

struct Operands {
  Floats left, right;           // as the packing functions read them
  int64_t left_row, right_row;  // their row strides
  // The rounded numbers, row by row of left and column by column of right.
  Floats rounded_left(const Case& c) const {
    Floats all;
    for (int64_t i = 0; i < c.m; ++i)
      for (int64_t p = 0; p < c.k; ++p)
        all.push_back(rounded(left[std::size_t(c.left_transposed ? p * left_row + i : i * left_row + p)]));
    return all;
  }
  Floats rounded_right(const Case& c) const {
    Floats all;
    for (int64_t j = 0; j < c.n; ++j)
      for (int64_t p = 0; p < c.k; ++p)
        all.push_back(rounded(right[std::size_t(c.right_transposed ? j * right_row + p : p * right_row + j)]));
    return all;
  }
};

Operands operands(const Case& c, uint32_t seed) {
  Operands o;
  o.left_row = (c.left_transposed ? c.m : c.k) + 3;
  o.right_row = (c.right_transposed ? c.k : c.n) + 5;
  o.left = numbers<float>(std::size_t((c.left_transposed ? c.k : c.m) * o.left_row), seed);
  o.right = numbers<float>(std::size_t((c.right_transposed ? c.n : c.k) * o.right_row), seed + 1);
  return o;
}

struct Packed {
  Memory left, right;
};

// Cuts [0, n) at `grain` when in parts, and calls f(begin, end).
template <class F>
void in_parts(int64_t n, int64_t grain, bool parts, const F& f) {
  if (!parts || n <= grain) return f(int64_t(0), n);
  f(int64_t(0), grain);
  f(grain, n);
}

Packed pack(const Products16& p, const Case& c, const Operands& o, bool parts) {
  Packed packed{Memory(c.left_transposed ? p.left_transposed_bytes(c.m, c.k) : p.left_bytes(c.m, c.k)),
                Memory(p.right_bytes(c.k, c.n))};
  fp::Pack16 left{o.left.data(),   o.left_row, c.left_transposed ? c.k : c.m, c.left_transposed ? c.m : c.k, 0, 0, 0, 0,
                  packed.left.at()};
  // In any order: the last rows first.
  in_parts(left.rows, 10, parts, [&](int64_t r0, int64_t r1) {
    in_parts(left.cols, 16, parts && c.left_transposed, [&](int64_t c0, int64_t c1) {
      left.r0 = r0, left.r1 = r1, left.c0 = c0, left.c1 = c1;
      (c.left_transposed ? p.pack_left_transposed : p.pack_left)(left);
    });
  });
  fp::Pack16 right{
      o.right.data(),   o.right_row, c.right_transposed ? c.n : c.k, c.right_transposed ? c.k : c.n, 0, 0, 0, 0,
      packed.right.at()};
  in_parts(right.rows, c.right_transposed ? 16 : 22, parts, [&](int64_t r0, int64_t r1) {
    in_parts(right.cols, 16, parts, [&](int64_t c0, int64_t c1) {
      right.r0 = r0, right.r1 = r1, right.c0 = c0, right.c1 = c1;
      (c.right_transposed ? p.pack_right_transposed : p.pack_right)(right);
    });
  });
  return packed;
}

// c (m, n) with rows of n + 2; whole, or cut into four parts.
void multiply(const Products16& p, const Case& c, Packed& packed, const fp::Epilogue<float>& e, bool accumulate,
              bool parts, Floats& out, const fp::Kept16* kept = nullptr) {
  const int64_t c_row = c.n + 2;
  Memory scratch(p.scratch(c.m, c.n, c.k) * 4);
  in_parts(c.m, 16, parts, [&](int64_t i0, int64_t i1) {
    in_parts(c.n, 16, parts, [&](int64_t j0, int64_t j1) {
      fp::Product16 g{};
      g.m = i1 - i0, g.n = j1 - j0, g.k = c.k;
      g.left = packed.left.at(), g.left_rows = c.m, g.i0 = i0, g.transposed = c.left_transposed;
      g.right = packed.right.at(), g.right_cols = c.n, g.j0 = j0;
      g.c = out.data() + i0 * c_row + j0, g.c_row = c_row;
      if (kept) g.kept = *kept, g.kept.i = i0;
      if (kept && e.kind != EpilogueKind::sgd) g.c = nullptr;
      g.accumulate = accumulate;
      g.epilogue = e;
      if (g.epilogue.bias) g.epilogue.bias += j0;
      if (g.epilogue.pre) g.epilogue.pre += i0 * e.pre_row + j0;
      if (g.epilogue.saved) g.epilogue.saved += i0 * e.saved_row + j0;
      if (g.epilogue.velocity) g.epilogue.velocity += i0 * c_row + j0;
      g.scratch = static_cast<float*>(scratch.at());
      p.product(g);
    });
  });
}

class Suite {
 public:
  explicit Suite(const Products16& p) : p_(p) {}
  Digest digest{};

  void product(const Case& c, uint32_t seed) {
    const int64_t c_row = c.n + 2;
    const Operands o = operands(c, seed);
    const Floats start = numbers<float>(std::size_t(c.m * c_row), seed + 2);
    Packed packed = pack(p_, c, o, false), parts = pack(p_, c, o, true);
    Floats sums = start, again = start;
    multiply(p_, c, packed, {}, false, false, sums);
    multiply(p_, c, parts, {}, false, true, again);
    if (std::memcmp(sums.data(), again.data(), sums.size() * 4) != 0) wrong(c, "in parts");
    const Floats left = o.rounded_left(c), right = o.rounded_right(c);
    for (int64_t i = 0; i < c.m; ++i)
      for (int64_t j = 0; j < c_row; ++j) {
        const float got = sums[std::size_t(i * c_row + j)];
        if (j >= c.n) {
          if (got != start[std::size_t(i * c_row + j)]) return wrong(c, "beyond the row");
          continue;
        }
        double sum = 0, size = 0;
        for (int64_t q = 0; q < c.k; ++q) {
          const double x = double(left[std::size_t(i * c.k + q)]) * double(right[std::size_t(j * c.k + q)]);
          sum += x;
          size += std::fabs(x);
        }
        // Every product and every addition in float32 rounds once at most.
        if (!(std::fabs(got - sum) <= double(c.k + 4) * std::ldexp(size, -24))) {
          fail("%s %lldx%lldx%lld: expected %.9g, received %.9g", p_.name, (long long)c.m, (long long)c.n,
               (long long)c.k, sum, double(got));
          return;
        }
      }
    digest.add(sums);
    epilogues(c, packed, start, sums, seed);
  }

  // The epilogues against the sums of the same path, bit for bit.
  void epilogues(const Case& c, Packed& packed, const Floats& start, const Floats& sums, uint32_t seed) {
    const int64_t c_row = c.n + 2;
    const Floats bias = numbers<float>(std::size_t(c.n), seed + 3);
    const bool chained = std::strncmp(p_.name, "amx", 3) == 0;
    for (int mode = 0; mode < 5; ++mode) {
      Floats y = start, pre = start, velocity = start;
      fp::Epilogue<float> e;
      if (mode < 2) {
        e.kind = EpilogueKind::forward;
        e.activation = mode == 0 ? Activation::relu : Activation::leaky_relu;
        e.alpha = 0.25f;
        e.bias = bias.data();
        if (mode == 1) e.pre = pre.data(), e.pre_row = c_row;
      } else if (mode == 2) {
        e.kind = EpilogueKind::backward;
        e.activation = Activation::relu;
        e.saved = start.data(), e.saved_row = c_row;
      } else if (mode == 3) {
        e.kind = EpilogueKind::sgd;
        e.velocity = velocity.data();
        e.learning_rate = 0.25f, e.momentum = 0.5f;
      }
      multiply(p_, c, packed, e, mode == 4, false, y);
      for (int64_t i = 0; i < c.m; ++i)
        for (int64_t j = 0; j < c_row; ++j) {
          const std::size_t at = std::size_t(i * c_row + j);
          const float sum = sums[at], z = j < c.n ? sum + bias[std::size_t(j)] : 0, slope = mode == 0 ? 0.0f : 0.25f;
          float want = start[at];
          if (j < c.n && mode < 2) want = z < 0 ? slope * z : z;
          if (j < c.n && mode == 2) want = start[at] > 0 ? sum : 0 * sum;
          if (j < c.n && mode == 3) want = start[at] + std::fma(-0.25f, sum, 0.5f * start[at]);
          if (j < c.n && mode == 4 && c.k > 0) {
            const float added = start[at] + sum;
            // Sums that are one chain begin with c: another order. See resumed() for their bits, and for cut ones'.
            const bool ordered = !chained && c.k <= fp::kBlock;
            want = ordered || !(std::fabs(y[at] - added) <= 1e-5f * float(c.k + 10)) ? added : y[at];
          }
          if (y[at] != want || (mode == 1 && j < c.n && pre[at] != z)) {
            fail("%s %lldx%lldx%lld, epilogue %d: expected %.9g, received %.9g", p_.name, (long long)c.m,
                 (long long)c.n, (long long)c.k, mode, double(want), double(y[at]));
            return;
          }
        }
    }
  }

  // Results that are kept packed: the bytes are those of packing the float32 results, by whatever parts.
  void kept(const Case& c, uint32_t seed) {
    const int64_t c_row = c.n + 2, sums_row = (c.n + 15) / 16 * 16, blocks = (c.m + fp::kSums16 - 1) / fp::kSums16;
    const Operands o = operands(c, seed);
    Packed packed = pack(p_, c, o, false);
    const Floats bias = numbers<float>(std::size_t(c.n), seed + 1),
                 z = numbers<float>(std::size_t(c.m * c_row), seed + 2);
    const Memory saved = as_left(c, z);
    Floats z_rounded(z.size());
    for (std::size_t i = 0; i < z.size(); ++i) z_rounded[i] = rounded(z[i]);
    for (int mode = 0; mode < 7; ++mode) {
      Floats y = z, pre = z, velocity = z, sums(std::size_t(blocks * sums_row), 7.0f);
      fp::Epilogue<float> e;
      if (mode < 3) {
        e.kind = EpilogueKind::forward;
        e.activation = mode == 0 ? Activation::relu : mode == 1 ? Activation::linear : Activation::gelu;
        if (mode != 1) e.bias = bias.data();
        if (mode == 2) e.pre = pre.data(), e.pre_row = c_row;
      } else if (mode < 6) {
        e.kind = EpilogueKind::backward;
        e.activation = mode == 3 ? Activation::relu : mode == 4 ? Activation::leaky_relu : Activation::gelu;
        e.alpha = 0.25f;
        e.saved = mode == 5 ? z.data() : z_rounded.data();
        e.saved_row = c_row;
      } else {
        e.kind = EpilogueKind::sgd;
        e.velocity = velocity.data();
        e.learning_rate = 0.25f, e.momentum = 0.5f;
      }
      multiply(p_, c, packed, e, false, false, y);
      Floats same_y = z, same_pre = z, same_velocity = z;
      if (mode < 3 && e.pre) e.pre = same_pre.data();
      if (mode == 6) e.velocity = same_velocity.data();
      for (bool parts : {false, true}) {
        Memory left(p_.left_bytes(c.m, c.n)), right(p_.right_bytes(c.m, c.n)), transposed(p_.right_bytes(c.n, c.m));
        fp::Kept16 k{c.m, c.n};
        if (mode < 6) k.left = left.at();
        k.right = right.at();
        if (mode == 6) k.right_transposed = transposed.at();
        if (mode == 3 || mode == 4) k.saved = saved.at(), e.saved = nullptr;
        if (mode >= 3 && mode < 6) k.sums = sums.data(), k.sums_row = sums_row;
        same_y = same_velocity = same_pre = z;
        std::fill(sums.begin(), sums.end(), 7.0f);
        multiply(p_, c, packed, e, false, parts, same_y, &k);
        const Memory want_left = as_left(c, y);
        Memory want_right(int64_t(right.size())), want_transposed(int64_t(transposed.size()));
        p_.pack_right({y.data(), c_row, c.m, c.n, 0, c.m, 0, c.n, want_right.at()});
        p_.pack_right_transposed({y.data(), c_row, c.m, c.n, 0, c.m, 0, c.n, want_transposed.at()});
        if (k.left && std::memcmp(left.at(), want_left.at(), left.size()) != 0) wrong(c, "as left", mode);
        if (std::memcmp(right.at(), want_right.at(), right.size()) != 0) wrong(c, "as right", mode);
        if (k.right_transposed && std::memcmp(transposed.at(), want_transposed.at(), transposed.size()) != 0)
          wrong(c, "as right, transposed", mode);
        if (mode == 2 && same_pre != pre) wrong(c, "z", mode);
        if (mode == 6 && (same_y != y || same_velocity != velocity)) wrong(c, "c", mode);
        for (int64_t j = 0; k.sums && j < c.n; ++j)
          for (int64_t b = 0; b < blocks; ++b) {
            float sum = 0;
            for (int64_t i = b * fp::kSums16; i < std::min(c.m, (b + 1) * fp::kSums16); ++i)
              sum += y[std::size_t(i * c_row + j)];
            if (sums[std::size_t(b * sums_row + j)] != sum) return wrong(c, "sums", mode);
          }
        if (k.left) transposed_kept(c, y, left);
        if (mode == 4) kept_alone(c, packed, e, k, parts, left, right, sums);
      }
    }
  }

  // Each of what can be kept without the others: the same bytes.
  void kept_alone(const Case& c, Packed& packed, const fp::Epilogue<float>& e, const fp::Kept16& all, bool parts,
                  const Memory& left, const Memory& right, const Floats& sums) {
    Memory got_left(p_.left_bytes(c.m, c.n)), got_right(p_.right_bytes(c.m, c.n));
    Floats got_sums(sums.size(), 7.0f), none(std::size_t(c.m * (c.n + 2)));
    for (int only = 0; only < 3; ++only) {
      fp::Kept16 k = all;
      k.left = only == 0 ? got_left.at() : nullptr;
      k.right = only == 1 ? got_right.at() : nullptr;
      k.sums = only == 2 ? got_sums.data() : nullptr;
      multiply(p_, c, packed, e, false, parts, none, &k);
    }
    if (std::memcmp(got_left.at(), left.at(), left.size()) != 0) wrong(c, "left alone");
    if (std::memcmp(got_right.at(), right.at(), right.size()) != 0) wrong(c, "right alone");
    if (got_sums != sums) wrong(c, "sums alone");
  }

  // The left operand of y^T made from y as a left operand.
  void transposed_kept(const Case& c, const Floats& y, const Memory& left) {
    Memory got(p_.left_transposed_bytes(c.n, c.m)), want(p_.left_transposed_bytes(c.n, c.m));
    fp::Pack16 part{y.data(), c.n + 2, c.m, c.n, 0, c.m, 0, c.n, want.at()};
    p_.pack_left_transposed(part);
    part.out = got.at();
    in_parts(c.m, 10, true, [&](int64_t r0, int64_t r1) {
      in_parts(c.n, 16, true, [&](int64_t c0, int64_t c1) {
        part.r0 = r0, part.r1 = r1, part.c0 = c0, part.c1 = c1;
        p_.pack_left_transposed_kept(part, left.at());
      });
    });
    if (std::memcmp(got.at(), want.at(), got.size()) != 0) wrong(c, "transposed when kept");
  }

  Memory as_left(const Case& c, const Floats& y) const {
    Memory left(p_.left_bytes(c.m, c.n));
    p_.pack_left({y.data(), c.n + 2, c.m, c.n, 0, c.m, 0, c.n, left.at()});
    return left;
  }

  // A sum continued at a block's border is the sum.
  void resumed(bool transposed) {
    const Case whole{37, 50, 2 * fp::kBlock16 - 100, transposed, false};
    const Operands o = operands(whole, 77);
    Packed packed = pack(p_, whole, o, false);
    Floats expected(std::size_t(whole.m * (whole.n + 2))), got = expected;
    multiply(p_, whole, packed, {}, false, false, expected);
    for (int part = 0; part < 2; ++part) {
      Case c = whole;
      c.k = part == 0 ? fp::kBlock16 : whole.k - fp::kBlock16;
      Operands half = o;
      const int64_t from = part * fp::kBlock16;
      half.left.erase(half.left.begin(), half.left.begin() + from * (transposed ? o.left_row : 1));
      half.right.erase(half.right.begin(), half.right.begin() + from * o.right_row);
      half.left.resize(o.left.size());
      Packed of_half = pack(p_, c, half, false);
      multiply(p_, c, of_half, {}, part == 1, false, got);
    }
    // Blocks of the widened products are shorter: there the first half has two, of which the sum is added to a third.
    if (std::memcmp(expected.data(), got.data(), got.size() * 4) != 0) wrong(whole, "continued");
  }

  // Rounding, seen through a product with one.
  void rounding() {
    const float inf = std::numeric_limits<float>::infinity(), nan = std::nanf("");
    Floats x = {1.0f,           1.00390625f,   1.01171875f, -1.00390625f, 1.00390637f,
                1.0039062f,     3.3895314e38f, 3.4e38f,     -3.4e38f,     inf,
                -inf,           nan,           1e-39f,      -1e-40f,      1.17549435e-38f,
                1.1754942e-38f, 0.0f,          -0.0f,       0.1f,         1.0f / 3};
    uint32_t low = 0x7f800001u;  // a NaN whose upper half alone would be infinity
    float hidden;
    std::memcpy(&hidden, &low, 4);
    x.push_back(hidden);
    const int64_t count = int64_t(x.size());
    for (int side = 0; side < 4; ++side) {
      Case c{side < 2 ? count : 1, side < 2 ? 1 : count, 1, side % 2 == 1, side % 2 == 1};
      Operands o{side < 2 ? x : Floats{1.0f}, side < 2 ? Floats{1.0f} : x, 0, 0};
      o.left_row = c.left_transposed ? c.m : 1;
      o.right_row = c.right_transposed ? 1 : c.n;
      Packed packed = pack(p_, c, o, false);
      Floats out(std::size_t(c.m * (c.n + 2)));
      multiply(p_, c, packed, {}, false, false, out);
      for (int64_t i = 0; i < count; ++i) {
        const float want = rounded(x[std::size_t(i)]) + 0.0f, got = out[std::size_t(side < 2 ? i * (c.n + 2) : i)];
        if (!same(want, got)) fail("%s rounds %.9g to %.9g", p_.name, double(x[std::size_t(i)]), double(got));
      }
    }
  }

 private:
  const Products16& p_;
  void wrong(const Case& c, const char* what, int mode = 0) {
    fail("%s %lldx%lldx%lld transposed=%d,%d, epilogue %d: differs %s", p_.name, (long long)c.m, (long long)c.n,
         (long long)c.k, c.left_transposed, c.right_transposed, mode, what);
  }
};

}  // namespace

void test_bf16(const std::vector<const fp::Products16*>& paths) {
  const int64_t sizes[] = {0, 1, 2, 7, 8, 9, 15, 16, 17, 31, 32, 33, 48, 64, 65, 255, 256, 257};
  uint64_t of_widened = 0, of_tiles = 0;
  for (const fp::Products16* p : paths) {
    Suite s(*p);
    uint32_t seed = 1;
    for (int64_t m : sizes)
      for (int64_t n : sizes) {
        s.product({m, n, sizes[seed % 18], seed % 2 == 0, seed % 3 == 0}, seed * 11);
        ++seed;
      }
    for (bool transposed : {false, true}) {
      s.product({70, 100, 1300, transposed, transposed}, 5);
      s.product({530, 40, 2700, transposed, !transposed}, 6);  // longer than a chunk, more rows than a group
      s.product({1, 300, 2700, transposed, transposed}, 7);
      s.resumed(transposed);
    }
    for (int64_t m : {1, 7, 16, 33, 48, 100})
      for (int64_t n : {1, 15, 16, 31, 33, 64, 100})
        if (p->keeps) s.kept({m, n, sizes[1 + seed++ % 17], false, false}, seed * 13);
    if (p->keeps) s.kept({90, 70, 2700, false, false}, 14);
    s.rounding();
    std::printf("bfloat16 digest %s %016llx\n", p->name, static_cast<unsigned long long>(s.digest.value));
    if (std::strcmp(p->name, "avx512_bf16") == 0) continue;
    uint64_t& agreed = std::strncmp(p->name, "amx", 3) == 0 ? of_tiles : of_widened;
    if (agreed != 0 && agreed != s.digest.value) fail("%s: sums differ from the path before", p->name);
    agreed = s.digest.value;
  }
}
