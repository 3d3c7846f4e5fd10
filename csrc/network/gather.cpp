// Where a run's rows come from: the inputs, gathered or read where they lie, and what they are judged by.
#include <algorithm>

#include "network/cuts.hpp"
#include "runtime/fpstate.hpp"

namespace fp {

namespace {

// Shuffled rows are read where they lie if there are so many, of so many bytes, and of two for every column that they
// are multiplied by: otherwise gathering them costs less than products lose by it.
constexpr int64_t kScatteredRows = 4, kScatteredBytes = 384;
// Where products read such rows slowly unless they are mostly zeros, this many looks, each at a few of them, have to
// find that they are.
constexpr int64_t kZeroLooks = 4;

}  // namespace

template <class T>
void Run<T>::gather(Team& team) {
  int64_t width = program.widths[0];
  for (const Targets& t : sources->heads) width += t.y && !t.labels ? t.y->cols : 1;
  find_inputs(team);
  const bool makes = makes_inputs(), own = makes && own_input, shared = makes && !own_input;
  if (own) slabs(team, {0, n}, program.widths[0], true, [&](Range r) { gather_rows(r, true, false); });
  if (shared) hazards->writes(space.things.value(0), own_rows());
  hazards->writes(space.things.common(Things::targets), own_rows());
  hazards->settle(team);
  slabs(team, rows_of(team), width, true, [&](Range r) { gather_rows(r, shared, true); });
}

template <class T>
void Run<T>::find_inputs(const Team& team) {
  in_place = {};
  each_row = next_row = nullptr;
  if (unobserved) sources->x->find(in_place);
  if (!in_place.data) return;
  if (!sources->index) {
    in_place.data += begin * in_place.row;
    return;
  }
  if (!scattered || n < kScatteredRows) {
    in_place = {};
    return;
  }
  const auto place = [&](int64_t number) { return in_place.data + std::max<int64_t>(number, 0) * in_place.row; };
  const T** each = space.each_row(team.rank);
  for (int64_t i = 0; i < n; ++i) each[i] = place(row_number(i));
  each_row = each;
  if (later == 0) return;
  const T** next = each + n;
  for (int64_t i = 0; i < n; ++i) next[i] = i < later ? place(possible_number(n + i)) : each[i];
  next_row = next;
}

template <class T>
void Run<T>::look_at_inputs(int64_t first, int64_t end, int64_t rows, const Way& cut) {
  const auto row_bytes = program.widths[0] * static_cast<int64_t>(sizeof(T));
  const bool possible = sources->index && sources->x->rows > 0 && !products() && plan.inputs_multiplied &&
                        row_bytes >= std::max(kScatteredBytes, 2 * plan.input_products);
  scattered = possible && kernels.scattered == Scattered::quickly;
  if (!possible || kernels.scattered != Scattered::slowly) return;
  RowsInPlace<T> found;
  sources->x->find(found);
  if (!found.data) return;
  const T* each[64];
  GemmArgs<T> g{};
  g.m = std::min<int64_t>(rows / cut.down, 64);
  g.n = plan.input_products / cut.across;
  g.k = program.widths[0];
  g.a_rows = each;
  g.a_col = 1;
  if (g.m == 0) return;
  const FpState state;
  for (int64_t look = 0; look < kZeroLooks; ++look) {
    for (int64_t i = 0; i < g.m; ++i) {
      const int64_t number = possible_number(first + (end - first) * (look * g.m + i) / (kZeroLooks * g.m));
      if (number < 0) return;
      each[i] = found.data + number * found.row;
    }
    if (!kernels.leaves_out_zeros(g)) return;
  }
  scattered = true;
}

template <class T>
int64_t Run<T>::possible_number(int64_t i) const {
  const int64_t row = static_cast<const volatile int64_t*>(sources->index)[begin + i];
  return row >= 0 && row < sources->x->rows ? row : -1;
}

template <class T>
int64_t Run<T>::row_number(int64_t i) {
  const int64_t row = possible_number(i);
  if (row < 0) interrupt.report_bad(begin + i);
  return row;
}

template <class T>
void Run<T>::gather_rows(Range r, bool inputs, bool targets) {
  const auto part = [&](Range rows, const int64_t* index, int64_t from) {
    if (inputs) gather_inputs(rows, index, from);
    if (targets) gather_targets(rows, index, from);
  };
  if (!sources->index) return part(r, nullptr, begin + r.begin);
  constexpr int64_t most = 512;
  int64_t numbers[most];
  for (int64_t at = r.begin; at < r.end; at += most) {
    const Range rows{at, std::min(at + most, r.end)};
    for (int64_t i = 0; i < rows.size(); ++i)
      if ((numbers[i] = row_number(at + i)) < 0) return;
    part(rows, numbers, 0);
  }
}

// Rows r of the batch from index[from], ..., or from, ... when index is nullptr.
template <class T>
void Run<T>::gather_inputs(Range r, const int64_t* index, int64_t from) {
  const View x = value(0);
  T* to = x.data + r.begin * x.row;
  if constexpr (kMixes<T>) {
    if (keeps_value(0)) {
      // Panel by panel: those that are not read in place, all through the first one's place.
      const int64_t width = program.widths[0], panel = products()->left_bytes(kSums16, width);
      for (int64_t at = r.begin; at < r.end; at += kSums16) {
        const int64_t rows = std::min(kSums16, r.end - at);
        if (in_place.data)
          to = x.data + at * x.row;
        else
          sources->x->gather(index, from + at - r.begin, rows, to, x.row);
        products()->pack_left({to, x.row, rows, width, 0, rows, 0, width, kept_value(0) + at / kSums16 * panel});
      }
      return;
    }
  }
  sources->x->gather(index, from, r.size(), to, x.row);
}

template <class T>
void Run<T>::gather_targets(Range r, const int64_t* index, int64_t from) {
  for (std::size_t h = 0; h < sources->heads.size(); ++h) {
    const Targets& given = sources->heads[h];
    auto& to = space.heads[h];
    if (given.y && given.labels) {
      int64_t* label = to.label.data();
      given.y->gather(index, from, r.size(), label + r.begin, 1);
      for (int64_t i = r.begin; i < r.end; ++i) {
        if (label[i] >= 0 && label[i] < given.classes) continue;
        // The kernels may index with what is stored here; the step is given up before the update.
        label[i] = 0;
        interrupt.report_bad(begin + i);
      }
    } else if (given.y) {
      given.y->gather(index, from, r.size(), to.target.data + r.begin * to.target.row, to.target.row);
    }
    if (given.weights) given.weights->gather(index, from, r.size(), to.weights.data() + r.begin, 1);
  }
}

#define FP_INSTANTIATE(T)                                                      \
  template void Run<T>::gather(Team&);                                         \
  template void Run<T>::find_inputs(const Team&);                              \
  template void Run<T>::look_at_inputs(int64_t, int64_t, int64_t, const Way&); \
  template int64_t Run<T>::possible_number(int64_t) const;                     \
  template int64_t Run<T>::row_number(int64_t);                                \
  template void Run<T>::gather_rows(Range, bool, bool);                        \
  template void Run<T>::gather_inputs(Range, const int64_t*, int64_t);         \
  template void Run<T>::gather_targets(Range, const int64_t*, int64_t);
FP_INSTANTIATE(float)
FP_INSTANTIATE(double)
#undef FP_INSTANTIATE

}  // namespace fp
