#include "network/run.hpp"

#include <algorithm>

#include "network/cuts.hpp"

namespace fp {

namespace {

// With more blocks it takes longer to read all of them than others' weights.
constexpr int64_t kMostCopied = 8;

}  // namespace

template <class T>
typename Run<T>::View Run<T>::value(int v) const {
  if (!training) v = plan.inference[v];
  const auto& [memory, data, row] = space.values[v];
  if (value_thing(v) != 0) return {data, row};
  const int64_t column = data - space.values[0].data;
  if (in_place.data) return {const_cast<T*>(in_place.data) + column, in_place.row};
  return {own_input ? own_input + column : data, row};
}

template <class T>
ops::Rows<T> Run<T>::operand(int v, int64_t from) const {
  const int64_t width = program.widths[v];
  if (each_row && value_thing(v) == 0)
    return {each_row + from, next_row ? next_row + from : nullptr, space.values[v].data - space.values[0].data,
            n - from, width};
  const View x = value(v);
  return ops::Matrix<const T>{x.data + from * x.row, n - from, width, x.row};
}

template <class T>
int Run<T>::useful_threads(const Program& program, int64_t rows, bool training, int most) {
  double flop = 0;
  for (const Operation& op : program.operations)
    flop += op.kind == OperationKind::dense     ? product_flop(program, op)
            : op.kind == OperationKind::columns ? 0
                                                : kFlopPerElement * static_cast<double>(program.widths[op.output]);
  flop *= static_cast<double>(rows) * (training ? 3 : 1);
  return static_cast<int>(std::clamp(flop / kFlopPerThread, 1.0, static_cast<double>(std::max(most, 1))));
}

template <class T>
Way Run<T>::way_for(int64_t rows, int size) const {
  if (size == 1) return {};
  const int64_t count = (rows + kRowBlock - 1) / kRowBlock, most = (count + size - 1) / size * kRowBlock;
  // Whoever has a block more than others must not have much more to do.
  if (all_fused && space.block_sums.size() > 0 && static_cast<double>(most * size) <= 1.2 * static_cast<double>(rows))
    return {size, 1, true, copies != nullptr && count <= kMostCopied};
  const Products16* p = products();
  return Way::best(program, rows, size, training, kLine<T>, p ? p->row_grain : kernels.tile_rows, p);
}

template <class T>
void Run<T>::choose_way(Team& team, bool may_repeat) {
  if (n == way_rows) return;
  if (way_rows >= 0) {  // the same cuts are other rows from now on
    hazards->meet(team);
    hazards->forget();
  }
  way_rows = n;
  way = way_for(n, team.size);
  instance = way.copies && team.rank > 0 ? copies[team.rank - 1].get() : master;
  if (instance != master) instance->copy(*master);  // which is not changed before all have their block sums
  own_input = may_repeat && way.across == team.size && team.size > 1 ? space.own_input(team.rank) : nullptr;
  if (own_input && keeps_value(0)) own_packed_input = space.packed.own_input(team.rank);
  helping = !products() && !way.blocks && pays_to_help(team.size);
  if (helping) hazards->meet_always();
}

template <class T>
Region Run<T>::part_of(const Slice& parameter) const {
  if (parameter.rows == 1) return {{}, Cut(way.size(), 1, kLine<T>)};
  // Few rows are shared evenly rather than in whole tiles.
  const int64_t grain =
      products() ? kGrain16 : std::clamp<int64_t>(parameter.rows / (8 * way.size()), 1, kernels.tile_rows);
  if (way.across == 1) return grid(way.size(), parameter.rows, parameter.cols, grain, kLine<T>);
  // Few columns: those inputs that are this thread's columns of the layer before.
  if (!Way::is_wide(parameter.cols, way.across, kLine<T>)) return {Cut(way.size(), 1, std::max(grain, kLine<T>)), {}};
  return {Cut(way.down, way.across, grain), Cut(way.across, 1, kLine<T>)};
}

template <class T>
int64_t Run<T>::value_thing(int v) const {
  if (!training) v = plan.inference[v];
  const int made = plan.producer[v];
  return space.things.value(made >= 0 && program.operations[made].kind == OperationKind::columns ? 0 : v);
}

template <class T>
void Run<T>::forward(Team& team, int first, int last) {
  // A stop only empties the products: every thread still tells the others how far it is.
  for (int i = first; i < last; ++i) forward_operation(team, i);
}

template <class T>
void Run<T>::forward_operation(Team& team, int i) {
  const Operation& op = program.operations[i];
  const View x = value(op.input()), y = value(op.output);
  const int64_t width = program.widths[op.output];
  const T alpha = static_cast<T>(op.alpha);
  const bool dense = op.kind == OperationKind::dense;
  if (op.kind == OperationKind::columns || op.kind == OperationKind::python) return;
  if (op.kind == OperationKind::dropout && !training) return;
  const Region part = dense ? part_of(width) : own_rows();
  const Range r = part.rows.of(team.rank, n);
  for (int v : op.inputs) reads_value(v, {part.rows, {}});
  if (dense) {
    hazards->reads(space.things.parameter(op.weights), {{}, part.cols});
    if (op.bias >= 0) hazards->reads(space.things.parameter(op.bias), {{}, part.cols});
  }
  hazards->writes(value_thing(op.output), part);
  const Work work{
      .part = part, .rows = n, .cols = width, .depth = program.widths[op.input()], .in_shares = instance->shares() > 1};
  if (dense) offer(team, work);
  hazards->settle(team);
  switch (op.kind) {
    case OperationKind::dense:
      dense_forward(team, i, work);
      break;
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
      slabs(team, r, width, true, [&](Range s) {
        kernels.dropout({s.size(), width, s.begin, x.data + s.begin * x.row, x.row, y.data + s.begin * y.row, y.row,
                         dropout_threshold(op.rate), dropout_scale<T>(op.rate), key, step, op.stream});
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
    hazards->meet(team);
    if (team.rank == 0)
      for (auto& j : space.heads)
        if (j.weighted) j.total = weighted_sum(j.weights.data(), static_cast<const double*>(nullptr), n);
    hazards->meet(team);
  }
  for (int v : program.outputs) {
    reads_value(v, own_rows());
    if (gradients) writes_gradient(v, own_rows());
  }
  hazards->reads(space.things.common(Things::targets), own_rows());
  hazards->writes(space.things.common(Things::losses, turn), own_rows());
  hazards->settle(team);
  slabs(team, rows_of(team), width, true, [&](Range r) { judge_rows(team, r, heads, metrics, gradients); });
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
    a.losses = losses(h) + r.begin;
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
    metric_rows(metrics[m], judged(heads[h], h), r.begin, r.end, metric_values(m));
  }
}

template struct Run<float>;
template struct Run<double>;

}  // namespace fp
