#include "network/way.hpp"

#include <algorithm>
#include <cmath>

namespace fp {

namespace {

// Nanoseconds, roughly: of a multiply-add in float32; of writing a number that others hold in their caches, which they
// have to give up first; of reading one that another has written; of packing one for mixed products; of a wait.
constexpr double kMultiplyAdd = 0.017, kWrite = 0.6, kRead = 0.15, kPack = 0.2, kWait = 300;

double largest_share(int64_t n, int parts, int64_t grain) {
  const int64_t units = (n + grain - 1) / grain;
  return static_cast<double>(std::min(n, (units + parts - 1) / parts * grain));
}

// A thread's time for one pass over a batch.
double cost(const Program& program, int64_t n, int down, int across, bool training, int64_t line, int64_t row_grain,
            const Products16* products) {
  const int size = down * across;
  const double rows = static_cast<double>(n);
  const bool mixed = products != nullptr, keeps = mixed && products->keeps;
  const double speed = mixed ? static_cast<double>(products->speed) : 1;
  double sum = 0;
  for (const Operation& op : program.operations) {
    const int64_t width = program.widths[op.output];
    if (op.kind != OperationKind::dense) {
      // By rows, which others have to have finished.
      if (across > 1) sum += (training ? 2 : 1) * (kWait + kRead * rows * static_cast<double>(width) / size);
      continue;
    }
    const double in = static_cast<double>(program.widths[op.input()]), out = static_cast<double>(width);
    const bool wide = across > 1 && Way::is_wide(width, across, line), inner = op.input() != 0;
    const int r = wide ? down : size, c = wide ? across : 1;
    const double tall = largest_share(n, r, row_grain), broad = largest_share(width, c, line);
    sum += kMultiplyAdd / speed * tall * broad * in * (training ? (inner ? 3 : 2) : 1);
    if (mixed) {
      // The weights pass by once more for every further slab of rows.
      const double slabs = std::ceil(tall / static_cast<double>(products->slab_rows));
      sum += kRead * 0.5 * in * broad * (slabs - 1) * (training && inner ? 2 : 1);
      // A thread packs the rows that it multiplies, and, once, its share of the weight gradient's operands: in its
      // cache where it has multiplied the same rows, and otherwise not. What is kept packed costs nothing.
      if (!keeps || !inner) sum += kPack * tall * in;
      if (training && inner && !keeps) sum += kPack * tall * out;
      if (training) sum += (kPack + (across > 1 ? kRead : 0)) * rows / size * (keeps ? in : in + out);
    }
    // Forward: rows of x and columns of w, which others have made.
    if (across > 1) sum += kWait + kRead * tall * in;
    if (training && r > 1) sum += kRead * in * broad;
    if (!training) {
      sum += kRead * in * broad;  // from memory
      if (c > 1) sum += kWrite * tall * broad;
      continue;
    }
    // y and dz are read by others, for their columns or for their part of the weights' gradient; so is a part of w.
    sum += kWrite * 2 * tall * broad + kRead * 2 * (tall * out);
    if (r > 1) {
      // In mixed precision others read packed copies of half the size, of the operands as of the weights.
      sum += (kRead * rows * (in / r + broad) + kWrite * in * broad / r * (inner ? 2 : 1)) * (mixed ? 0.5 : 1);
      if (!inner) sum += kWrite * tall * in;
    } else if (inner) {
      sum += (kWrite + kRead) * in * broad / c;
    }
  }
  return sum + kWait;
}

}  // namespace

Way Way::best(const Program& program, int64_t n, int size, bool training, int64_t line, int64_t row_grain,
              const Products16* products) {
  Way best{size, 1, false};
  double least = cost(program, n, size, 1, training, line, row_grain, products);
  for (int across = 2; across <= size; ++across) {
    if (size % across) continue;
    const double c = cost(program, n, size / across, across, training, line, row_grain, products);
    if (c >= least) continue;
    least = c;
    best = {size / across, across, false};
  }
  return best;
}

}  // namespace fp
