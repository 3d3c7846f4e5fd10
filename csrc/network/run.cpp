#include "network/run.hpp"

#include <algorithm>
#include <type_traits>

namespace fp {

namespace {

// A product is run in pieces of about this much arithmetic per vector lane, some ten milliseconds, with a look at the
// interrupt in between.
constexpr double kFlopPerPiece = 7.5e7;
// The same for elementwise work, in elements; and what an element's epilogue counts for in a product: more than its
// arithmetic, since the first write to a page may wait for the system to clear it.
constexpr int64_t kElementsPerSlab = int64_t(1) << 19;
constexpr double kFlopPerEpilogue = 1600;
// Operand elements of a piece.
constexpr double kElementsPerPiece = 4e6;
// Columns of an input gradient that are computed before the same columns of the input are packed, which the derivative
// has just brought into cache.
constexpr int64_t kColumnsTogether = 96;
// Rows that are enough to share packed weights.
constexpr int64_t kRowsPerPiece = 2048;

struct Grid {
  Range rows, cols;
};

// A team's cut of a rows x cols output: the factors of the team's size with the least operand data per thread.
Grid grid(const Team& team, int64_t rows, int64_t cols, int64_t row_grain, int64_t col_grain) {
  int across = 1;
  double best = 0;
  for (int c = 1; c <= team.size; ++c) {
    if (team.size % c) continue;
    const int r = team.size / c;
    const double tall = static_cast<double>(std::max(row_grain, (rows + r - 1) / r));
    const double wide = static_cast<double>(std::max(col_grain, (cols + c - 1) / c));
    // The slowest thread's output counts first, then what it reads.
    const double cost = tall * wide * 64 + (tall + wide);
    if (c == 1 || cost < best) {
      best = cost;
      across = c;
    }
  }
  const int down = team.size / across;
  return {split(rows, team.rank / across, down, row_grain), split(cols, team.rank % across, across, col_grain)};
}

double product_flop(const Program& program, const Operation& op) {
  return 2.0 * static_cast<double>(program.widths[op.input()]) * static_cast<double>(program.widths[op.output]);
}

}  // namespace

template <class T>
typename Run<T>::View Run<T>::value(int v) const {
  if (!training) v = plan.inference[v];
  return {space.values[v].data, space.values[v].row};
}

template <class T>
int Run<T>::useful_threads(const Program& program, int64_t rows, bool training, int most) {
  double flop = 0;
  for (const Operation& op : program.operations)
    flop += op.kind == OperationKind::dense     ? product_flop(program, op)
            : op.kind == OperationKind::columns ? 0
                                                : 16.0 * static_cast<double>(program.widths[op.output]);
  flop *= static_cast<double>(rows) * (training ? 3 : 1);
  return static_cast<int>(std::clamp(flop / kFlopPerThread, 1.0, static_cast<double>(std::max(most, 1))));
}

template <class T>
void Run<T>::choose_way(int size) {
  by_rows = true;
  by_blocks = false;
  if (size == 1) return;
  const int64_t blocks = (n + kRowBlock - 1) / kRowBlock, most = (blocks + size - 1) / size * kRowBlock;
  // Whoever has a block more than others must not have much more to do.
  by_blocks =
      all_fused && space.block_sums.size() > 0 && static_cast<double>(most * size) <= 1.2 * static_cast<double>(n);
  if (by_blocks || n >= kRowsPerThread * size) return;
  double widest = 0;
  for (const Operation& op : program.operations)
    if (op.kind == OperationKind::dense) widest = std::max(widest, product_flop(program, op));
  // A barrier per operation must be cheap beside the operation.
  by_rows = widest * static_cast<double>(n) < 8 * kFlopPerThread * size && n >= size;
}

template <class T>
template <class F>
void Run<T>::pieces(Team& team, Range rows, Range cols, int64_t depth, bool may_stop, F&& f) {
  if (rows.size() <= 0 || cols.size() <= 0) return;
  // Columns are cut before rows, which share the packed weights.
  const double speed = products() ? static_cast<double>(products()->speed) : 1;
  const double per_output = 2.0 * static_cast<double>(std::max<int64_t>(depth, 1)) + kFlopPerEpilogue * speed;
  auto cut = [](double most, int64_t grain) {
    return std::max(grain, static_cast<int64_t>(std::min(most, 1e15)) / grain * grain);
  };
  const double piece = kFlopPerPiece * static_cast<double>(kernels.lanes) * speed;
  if (per_output * static_cast<double>(rows.size()) * static_cast<double>(cols.size()) < piece / 64) {
    if (!may_stop || !interrupt.stopped()) f(rows, cols);
    return;  // too small to ask the clock
  }
  const int64_t wide = cut(piece / per_output / static_cast<double>(std::min(rows.size(), kRowsPerPiece)), 192);
  // Long sums of few outputs are bound by what they read.
  const double most_read = kElementsPerPiece / static_cast<double>(std::max<int64_t>(depth, 1));
  const int64_t tall =
      cut(std::min(most_read, piece / per_output / static_cast<double>(std::min(wide, cols.size()))), 96);
  for (int64_t c = cols.begin; c < cols.end; c += wide)
    for (int64_t r = rows.begin; r < rows.end; r += tall) {
      if (may_stop && interrupt.stopped()) return;
      f(Range{r, std::min(r + tall, rows.end)}, Range{c, std::min(c + wide, cols.end)});
      interrupt.check(team);
    }
}

template <class T>
template <class Pack, class F>
void Run<T>::packed_pieces(Team& team, Range rows, Range cols, int64_t depth, bool may_stop, Pack&& pack, F&& f) {
  if (cols.size() <= 0) return;
  for (int64_t at = rows.begin; at < rows.end; at += products()->slab_rows) {
    if (may_stop && interrupt.stopped()) return;
    const Range slab{at, std::min(at + products()->slab_rows, rows.end)};
    pack(slab);
    pieces(team, slab, cols, depth, may_stop, [&](Range r, Range c) { f(slab, r, c); });
  }
}

template <class T>
template <class F>
void Run<T>::slabs(Team& team, Range range, int64_t width, bool may_stop, F&& f) {
  const int64_t most = std::max<int64_t>(16, kElementsPerSlab / std::max<int64_t>(width, 1) / 16 * 16);
  if (range.size() <= most) {
    if (range.size() > 0) f(range);
    return;
  }
  for (int64_t at = range.begin; at < range.end && !(may_stop && interrupt.stopped()); at += most) {
    f(Range{at, std::min(at + most, range.end)});
    interrupt.check(team);
  }
}

template <class T>
void Run<T>::gather(Team& team) {
  int64_t width = program.widths[0];
  for (const Targets& t : sources->heads) width += t.y && !t.labels ? t.y->cols : 1;
  slabs(team, rows_of(team), width, true, [&](Range r) { gather_rows(r); });
  settle(team);
}

template <class T>
void Run<T>::gather_rows(Range r) {
  if (!sources->index) return gather_part(r, nullptr, begin + r.begin);
  // Row numbers lie in memory that others can write to: each is read once, and the copy is checked and used.
  constexpr int64_t most = 512;
  int64_t numbers[most];
  const volatile int64_t* given = sources->index + begin;
  for (int64_t at = r.begin; at < r.end; at += most) {
    const Range part{at, std::min(at + most, r.end)};
    for (int64_t i = 0; i < part.size(); ++i) {
      numbers[i] = given[at + i];
      if (numbers[i] < 0 || numbers[i] >= sources->x->rows) return interrupt.report_bad(begin + at + i);
    }
    gather_part(part, numbers, 0);
  }
}

// Rows r of the batch from index[from], ..., or from, ... when index is nullptr.
template <class T>
void Run<T>::gather_part(Range r, const int64_t* index, int64_t from) {
  const View x = value(0);
  sources->x->gather(index, from, r.size(), x.data + r.begin * x.row, x.row);
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

template <class T>
void Run<T>::forward(Team& team, int first, int last) {
  // A stop only empties the products: every thread still meets the others at every barrier.
  for (int i = first; i < last; ++i) forward_operation(team, i);
}

template <class T>
void Run<T>::forward_operation(Team& team, int i) {
  const Operation& op = program.operations[i];
  const View x = value(op.input()), y = value(op.output);
  const int64_t width = program.widths[op.output];
  const T alpha = static_cast<T>(op.alpha);
  const Range r = rows_of(team);
  switch (op.kind) {
    case OperationKind::dense: {
      const int64_t in = program.widths[op.input()];
      Grid g{r, {0, width}};
      if (!by_rows) g = grid(team, n, width, row_grain(), kLine<T>);
      T* z = training ? space.pre[i].data : nullptr;
      if constexpr (std::is_same_v<T, float>) {
        if (products()) {
          void* left = space.packed.slab(team.rank);
          packed_pieces(
              team, g.rows, g.cols, in, true,
              [&](Range slab) { ops::pack_slab16(*products(), {x.data, n, in, x.row}, slab, left); },
              [&](Range slab, Range rows, Range cols) {
                ops::dense_forward16(*products(), left, slab, in, instance.packed.forward(op.weights),
                                     instance.vector(op.bias), op.activation, alpha, z, space.pre[i].row,
                                     {y.data, n, width, y.row}, rows, cols, space.thread_scratch(team.rank));
              });
          break;
        }
      }
      pieces(team, g.rows, g.cols, in, true, [&](Range rows, Range cols) {
        ops::dense_forward<T>(kernels, {x.data, n, in, x.row}, instance.weights(op.weights), instance.vector(op.bias),
                              op.activation, alpha, z, space.pre[i].row, {y.data, n, width, y.row}, rows, cols,
                              space.thread_scratch(team.rank));
      });
      break;
    }
    case OperationKind::activation:
      slabs(team, r, width, true, [&](Range s) {
        if (op.activation == Activation::softmax) {
          kernels.softmax_forward(s.size(), width, x.data + s.begin * x.row, x.row, y.data + s.begin * y.row, y.row);
        } else {
          for (int64_t k = s.begin; k < s.end; ++k)
            kernels.activation_forward(op.activation, alpha, width, x.data + k * x.row, y.data + k * y.row);
        }
      });
      break;
    case OperationKind::dropout:
      if (!training) break;
      slabs(team, r, width, true, [&](Range s) {
        kernels.dropout({s.size(), width, s.begin, x.data + s.begin * x.row, x.row, y.data + s.begin * y.row, y.row,
                         static_cast<uint32_t>(op.rate * 4294967296.0), static_cast<T>(1.0 / (1.0 - op.rate)), key,
                         step, op.stream});
      });
      break;
    case OperationKind::add:
    case OperationKind::multiply:
    case OperationKind::concatenate:
      slabs(team, r, width * static_cast<int64_t>(op.inputs.size()), true, [&](Range s) { join_forward(op, s); });
      break;
    case OperationKind::columns:  // a view
    case OperationKind::python:
      break;
  }
  settle(team);
}

template <class T>
Judged<T> Run<T>::judged(const Head& head, std::size_t number) const {
  const int v = program.output(head.output);
  const View p = value(v);
  const auto& j = space.heads[number];
  return {program.widths[v],
          p.data,
          p.row,
          j.labels ? nullptr : j.target.data,
          j.target.row,
          j.labels ? j.label.data() : nullptr,
          j.weighted ? j.weights.data() : nullptr};
}

template <class T>
void Run<T>::judge(Team& team, const std::vector<Head>& heads, const std::vector<Metric>& metrics, bool gradients) {
  int64_t width = 0;
  bool sums = false;
  for (std::size_t h = 0; h < heads.size(); ++h) {
    width += program.widths[program.output(heads[h].output)];
    sums |= heads[h].normaliser == Normaliser::weights && space.heads[h].weighted;
  }
  if (sums) {  // the weights of the whole batch, before the first gradient
    if (team.size > 1) team.barrier();
    if (team.rank == 0)
      for (auto& j : space.heads)
        if (j.weighted) j.total = weighted_sum(j.weights.data(), static_cast<const double*>(nullptr), n);
    if (team.size > 1) team.barrier();
  }
  slabs(team, rows_of(team), width, true, [&](Range r) { judge_rows(team, r, heads, metrics, gradients); });
  settle(team);
}

template <class T>
void Run<T>::judge_rows(Team& team, Range r, const std::vector<Head>& heads, const std::vector<Metric>& metrics,
                        bool gradients) {
  for (std::size_t h = 0; h < heads.size(); ++h) {
    const Head& head = heads[h];
    if (!head.loss) continue;
    const Judged<T> j = judged(head, h);
    const double divisor = normaliser(head, h);
    LossArgs<T> a{};
    a.kind = *head.loss;
    a.parameter = static_cast<T>(head.parameter);
    a.n = r.size();
    a.width = j.width;
    a.prediction = j.prediction + r.begin * j.prediction_row;
    a.prediction_row = j.prediction_row;
    a.target = j.target ? j.target + r.begin * j.target_row : nullptr;
    a.target_row = j.target_row;
    a.label = j.label ? j.label + r.begin : nullptr;
    a.weights = j.weights ? j.weights + r.begin : nullptr;
    a.scale = divisor != 0 ? static_cast<T>(head.weight / divisor) : T(0);
    a.losses = space.heads[h].losses.data() + r.begin;
    if (!gradients) {
      kernels.loss(a);
      continue;
    }
    const int v = program.output(head.output);
    const View g = gradient(v);
    bool begun = false;  // by an earlier head
    for (std::size_t e = 0; e < h; ++e) begun |= heads[e].loss && program.output(heads[e].output) == v;
    if (!g.data || !begun) {
      a.gradient = g.data ? g.data + r.begin * g.row : nullptr;  // the input's gradient is not kept
      a.gradient_row = g.row;
      kernels.loss(a);
      continue;
    }
    a.n = 1;
    a.gradient = space.spare.data() + team.rank * space.spare_row;
    for (int64_t i = r.begin; i < r.end; ++i) {
      kernels.loss(a);
      kernels.add(j.width, a.gradient, g.data + i * g.row);
      a.prediction += a.prediction_row;
      if (a.target) a.target += a.target_row;
      if (a.label) ++a.label;
      if (a.weights) ++a.weights;
      ++a.losses;
    }
  }
  for (std::size_t m = 0; m < metrics.size(); ++m) {
    const std::size_t h = static_cast<std::size_t>(metrics[m].head);
    metric_rows(metrics[m], judged(heads[h], h), r.begin, r.end, space.metric_values[m].data());
  }
}

template <class T>
void Run<T>::backward(Team& team, int first, int last, const BackwardPlan& pass, const std::vector<Destination>& to,
                      const std::vector<char>& begun, bool may_stop) {
  if (values_first()) {
    backward_values(team, first, last, pass, may_stop);
    if (team.size > 1) team.barrier();  // all rows are there, and everybody has read the weights
    return backward_weights(team, first, last, pass, to, begun, may_stop);
  }
  for (int i = last - 1; i >= first; --i) {
    if (!pass.active[i]) continue;
    backward_operation(team, i, pass.accumulate[i], may_stop);
    pack_operands(team, i, may_stop);
    const Operation& op = program.operations[i];
    const bool learns = (op.weights >= 0 && to[op.weights] != Destination::nowhere) ||
                        (op.bias >= 0 && to[op.bias] != Destination::nowhere);
    if (team.size > 1 && learns) team.barrier();
    parameters_of(team, i, pass, to, begun, may_stop);
    // The next operation's gradient lies, with rows of another length, where this one's is read.
    if (team.size > 1 && space.gradients_shared) team.barrier();
  }
}

template <class T>
void Run<T>::backward_values(Team& team, int first, int last, const BackwardPlan& pass, bool may_stop) {
  for (int i = last - 1; i >= first; --i)
    if (pass.active[i]) {
      backward_operation(team, i, pass.accumulate[i], may_stop);
      pack_operands(team, i, may_stop);
    }
}

template <class T>
void Run<T>::backward_weights(Team& team, int first, int last, const BackwardPlan& pass,
                              const std::vector<Destination>& to, const std::vector<char>& begun, bool may_stop) {
  for (int i = last - 1; i >= first; --i)
    if (pass.active[i]) parameters_of(team, i, pass, to, begun, may_stop);
}

template <class T>
void Run<T>::parameters_of(Team& team, int i, const BackwardPlan& pass, const std::vector<Destination>& to,
                           const std::vector<char>& begun, bool may_stop) {
  const auto& ops = program.operations;
  const int w = ops[i].weights, b = ops[i].bias;
  if (w >= 0 && to[w] != Destination::nowhere)
    weights_of(team, i, pass.accumulate_weights[i] || begun[w], to[w] == Destination::parameters, may_stop);
  if (b >= 0 && to[b] != Destination::nowhere)
    bias_of(team, i, pass.accumulate_bias[i] || begun[b], to[b] == Destination::parameters);
}

template <class T>
void Run<T>::backward_operation(Team& team, int i, const std::vector<char>& accumulate, bool may_stop) {
  const Operation& op = program.operations[i];
  const bool input_needed = plan.wanted[op.input()] != 0;
  const int64_t width = program.widths[op.output], in = program.widths[op.input()];
  const View x = value(op.input()), y = value(op.output), dy = gradient(op.output);
  const View dx = input_needed ? gradient(op.input()) : View{nullptr, 0};
  const T alpha = static_cast<T>(op.alpha);
  const Range r = rows_of(team);
  T* spare = space.spare.data() + team.rank * space.spare_row;

  if (op.kind == OperationKind::dense) {
    if (op.activation != Activation::linear && !plan.derivative_fused[op.output]) {
      const View saved = derivative_needs_z(op.activation) ? View{space.pre[i].data, space.pre[i].row} : y;
      slabs(team, r, width, may_stop, [&](Range s) {
        for (int64_t k = s.begin; k < s.end; ++k)
          kernels.activation_backward(op.activation, alpha, width, dy.data + k * dy.row, saved.data + k * saved.row,
                                      dy.data + k * dy.row);
      });
      settle(team);
    }
    if (!input_needed) return;
    const T* saved = nullptr;
    int64_t saved_row = 0;
    Activation act = Activation::linear;
    T act_alpha = 0;
    if (plan.derivative_fused[op.input()]) {
      const int made = plan.producer[op.input()];
      const Operation& before = program.operations[made];
      act = before.activation;
      act_alpha = static_cast<T>(before.alpha);
      saved = derivative_needs_z(act) ? space.pre[made].data : x.data;
      saved_row = derivative_needs_z(act) ? space.pre[made].row : x.row;
    }
    Grid g{r, {0, in}};
    if (!by_rows) g = grid(team, n, in, row_grain(), kLine<T>);
    const bool add = accumulate[0] != 0;
    if constexpr (std::is_same_v<T, float>) {
      if (products()) {
        void* left = space.packed.slab(team.rank);
        const bool share = packs_along(i);
        packed_pieces(
            team, g.rows, g.cols, width, may_stop,
            [&](Range slab) {
              if (!share) return ops::pack_slab16(*products(), {dy.data, n, width, dy.row}, slab, left);
              pack_gradient(i, slab, left);
            },
            [&](Range slab, Range rows, Range cols) {
              const int64_t wide = share ? kColumnsTogether : cols.size();
              for (int64_t c = cols.begin; c < cols.end; c += wide) {
                const Range part{c, std::min(c + wide, cols.end)};
                ops::dense_backward_input16(*products(), left, slab, width, instance.packed.backward(op.weights), saved,
                                            saved_row, act, act_alpha, add, {dx.data, n, in, dx.row}, rows, part,
                                            space.thread_scratch(team.rank));
                if (share) pack_input(i, rows, part);
              }
            });
        settle(team);
        return;
      }
    }
    pieces(team, g.rows, g.cols, width, may_stop, [&](Range rows, Range cols) {
      ops::dense_backward_input<T>(kernels, {dy.data, n, width, dy.row}, instance.transposed(op.weights), saved,
                                   saved_row, act, act_alpha, add, {dx.data, n, in, dx.row}, rows, cols,
                                   space.thread_scratch(team.rank));
    });
    settle(team);
    return;
  }

  if (op.kind == OperationKind::add || op.kind == OperationKind::multiply || op.kind == OperationKind::concatenate) {
    slabs(team, r, width * static_cast<int64_t>(op.inputs.size()), may_stop,
          [&](Range s) { join_backward(op, s, accumulate, spare); });
    settle(team);
    return;
  }

  if (!input_needed) return;
  slabs(team, r, width, may_stop, [&](Range s) {
    for (int64_t k = s.begin; k < s.end; ++k) {
      T* to = accumulate[0] ? spare : dx.data + k * dx.row;
      const T* from = dy.data + k * dy.row;
      if (op.kind == OperationKind::dropout) {
        kernels.dropout({1, width, k, from, dy.row, to, dx.row, static_cast<uint32_t>(op.rate * 4294967296.0),
                         static_cast<T>(1.0 / (1.0 - op.rate)), key, step, op.stream});
      } else if (op.activation == Activation::softmax) {
        kernels.softmax_backward(1, width, from, dy.row, y.data + k * y.row, y.row, to, dx.row);
      } else {
        const View saved = derivative_needs_z(op.activation) ? x : y;
        kernels.activation_backward(op.activation, alpha, width, from, saved.data + k * saved.row, to);
      }
      if (accumulate[0]) kernels.add(width, spare, dx.data + k * dx.row);
    }
  });
  settle(team);
}

template <class T>
bool Run<T>::packs_along(int i) const {
  const Operation& op = program.operations[i];
  return by_rows && plan.trainable[op.weights] && plan.wanted[op.input()];
}

template <class T>
void Run<T>::pack_gradient([[maybe_unused]] int i, [[maybe_unused]] Range rows, [[maybe_unused]] void* slab) {
  if constexpr (std::is_same_v<T, float>) {
    const Operation& op = program.operations[i];
    const int64_t out = program.widths[op.output];
    const View dz = gradient(op.output);
    void* right = space.packed.operands(i).dz.data();
    for (int64_t r = rows.begin; r < rows.end; r += kGrain16) {
      const int64_t end = std::min(r + kGrain16, rows.end);
      if (slab)
        products()->pack_left(
            {dz.data + rows.begin * dz.row, dz.row, rows.size(), out, r - rows.begin, end - rows.begin, 0, out, slab});
      products()->pack_right({dz.data, dz.row, n, out, r, end, 0, out, right});
    }
  }
}

template <class T>
void Run<T>::pack_input([[maybe_unused]] int i, [[maybe_unused]] Range rows, [[maybe_unused]] Range cols) {
  if constexpr (std::is_same_v<T, float>) {
    const Operation& op = program.operations[i];
    const View x = value(op.input());
    products()->pack_left_transposed({x.data, x.row, n, program.widths[op.input()], rows.begin, rows.end, cols.begin,
                                      cols.end, space.packed.operands(i).x.data()});
  }
}

template <class T>
void Run<T>::pack_operands(Team& team, int i, bool may_stop) {
  const Operation& op = program.operations[i];
  if (!products() || op.weights < 0 || !plan.trainable[op.weights] || packs_along(i)) return;
  const int64_t in = program.widths[op.input()], out = program.widths[op.output];
  // By rows: those that this thread has computed; nobody has waited for the others yet.
  const Range mine = by_rows ? rows_of(team) : split(n, team.rank, team.size, kGrain16);
  slabs(team, mine, in + out, may_stop, [&](Range r) {
    pack_input(i, r, {0, in});
    pack_gradient(i, r, nullptr);
  });
}

template <class T>
void Run<T>::weights_of(Team& team, int i, bool accumulate, bool fuse, bool may_stop) {
  const Operation& op = program.operations[i];
  const int p = op.weights;
  const auto& s = instance.slice(p);
  const View x = value(op.input()), dz = gradient(op.output);
  const Grid g = grid(team, s.rows, s.cols, products() ? kGrain16 : kernels.tile_rows, kLine<T>);
  Epilogue<T> e{};
  if (fuse) {
    e.kind = EpilogueKind::sgd;
    e.learning_rate = learning_rate(p);
    e.momentum = static_cast<T>(instance.sgd.momentum);
    e.nesterov = instance.sgd.nesterov;
    e.velocity = instance.velocity(p);
  }
  T* dw = instance.at(fuse ? instance.parameters : instance.gradients, p);
  pieces(team, g.rows, g.cols, n, may_stop, [&](Range inputs, Range outputs) {
    if constexpr (std::is_same_v<T, float>) {
      if (products()) {
        auto& packed = space.packed.operands(i);
        return ops::in_parts16(*products(), inputs, outputs, [&](Range rows, Range cols) {
          ops::dense_backward_weights16(*products(), n, packed.x.data(), packed.dz.data(), {dw, s.rows, s.cols, s.row},
                                        accumulate, e, rows, cols, space.thread_scratch(team.rank));
          if (fuse) instance.pack_part(p, rows, cols);
        });
      }
    }
    ops::dense_backward_weights<T>(kernels, {x.data, n, s.rows, x.row}, {dz.data, n, s.cols, dz.row},
                                   {dw, s.rows, s.cols, s.row}, accumulate, e, inputs, outputs,
                                   space.thread_scratch(team.rank));
    if (fuse && instance.has_transposed(p)) instance.transpose_part(kernels, p, inputs, outputs);
  });
}

template <class T>
void Run<T>::bias_of(Team& team, int i, bool accumulate, bool fuse) {
  const Operation& op = program.operations[i];
  const View dz = gradient(op.output);
  const Range c = split(program.widths[op.output], team.rank, team.size, kLine<T>);
  if (c.size() <= 0) return;
  T* db = instance.at(instance.gradients, op.bias) + c.begin;
  kernels.column_sums(n, c.size(), dz.data + c.begin, dz.row, db, accumulate);
  if (!fuse) return;
  const Sgd& sgd = instance.sgd;
  T* velocity = instance.velocity(op.bias);
  kernels.sgd_update(c.size(), instance.at(instance.parameters, op.bias) + c.begin, db,
                     velocity ? velocity + c.begin : nullptr, learning_rate(op.bias), static_cast<T>(sgd.momentum),
                     sgd.nesterov);
}

template <class T>
void Run<T>::update(Team& team, const std::vector<char>& which) {
  const Sgd& sgd = instance.sgd;
  for (int p = 0; p < instance.count(); ++p) {
    if (!which[p]) continue;
    const auto& s = instance.slice(p);
    if (s.rows == 0 || s.cols == 0) continue;
    const int64_t grain = products() ? kGrain16 : s.rows > 1 ? kernels.tile_rows : 1;
    const Grid g = grid(team, s.rows, s.cols, grain, kLine<T>);
    T* velocity = instance.velocity(p);
    for (int64_t r = g.rows.begin; r < g.rows.end && g.cols.size() > 0; ++r) {
      const int64_t at = r * s.row + g.cols.begin;
      kernels.sgd_update(g.cols.size(), instance.at(instance.parameters, p) + at,
                         instance.at(instance.gradients, p) + at, velocity ? velocity + at : nullptr, learning_rate(p),
                         static_cast<T>(sgd.momentum), sgd.nesterov);
    }
    if (instance.has_transposed(p)) instance.transpose_part(kernels, p, g.rows, g.cols);
    instance.pack_part(p, g.rows, g.cols);
  }
}

template struct Run<float>;
template struct Run<double>;

}  // namespace fp
