// The backward pass over a batch: gradients of values, gradients of parameters, and the optimizer.
#include "network/cuts.hpp"

namespace fp {

template <class T>
void Run<T>::backward(Team& team, int first, int last, const BackwardPlan& pass, const std::vector<Destination>& to,
                      const std::vector<char>& begun, bool may_stop) {
  if (values_first()) {
    backward_values(team, first, last, pass, may_stop);
    return backward_weights(team, first, last, pass, to, begun, may_stop);
  }
  for (int i = last - 1; i >= first; --i) {
    if (!pass.active[i]) continue;
    backward_operation(team, i, pass.accumulate[i], may_stop);
    parameters_of(team, i, pass, to, begun, may_stop);
  }
}

template <class T>
void Run<T>::backward_values(Team& team, int first, int last, const BackwardPlan& pass, bool may_stop) {
  for (int i = last - 1; i >= first; --i)
    if (pass.active[i]) backward_operation(team, i, pass.accumulate[i], may_stop);
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
  const bool weights = w >= 0 && to[w] != Destination::nowhere, bias = b >= 0 && to[b] != Destination::nowhere;
  const bool weights_begun = weights && (pass.accumulate_weights[i] || begun[w]);
  const bool bias_begun = bias && (pass.accumulate_bias[i] || begun[b]);
  // One product makes both where they go the same way.
  const bool together =
      weights && bias && !products() && plan.bias_joined[i] && to[w] == to[b] && weights_begun == bias_begun;
  if (weights) weights_of(team, i, weights_begun, to[w] == Destination::parameters, may_stop, together);
  if (bias && !together) bias_of(team, i, bias_begun, to[b] == Destination::parameters);
}

template <class T>
void Run<T>::backward_operation(Team& team, int i, const std::vector<char>& accumulate, bool may_stop) {
  const Operation& op = program.operations[i];
  if (op.kind == OperationKind::dense) return dense_backward(team, i, accumulate[0] != 0, may_stop);
  if (op.kind == OperationKind::columns || op.kind == OperationKind::python) return;
  const bool input_needed = plan.wanted[op.input()] != 0;
  const int64_t width = program.widths[op.output];
  const View x = value(op.input()), y = value(op.output), dy = gradient(op.output);
  const View dx = input_needed ? gradient(op.input()) : View{nullptr, 0};
  const T alpha = static_cast<T>(op.alpha);
  T* spare = space.spare.data() + team.rank * space.spare_row;
  const Region part = own_rows();
  const Range r = part.rows.of(team.rank, n);
  reads_gradient(op.output, part);
  reads_value(op.output, part);
  for (int v : op.inputs) {
    reads_value(v, part);
    if (plan.wanted[v]) writes_gradient(v, part);
  }
  hazards->settle(team);
  if (op.kind == OperationKind::add || op.kind == OperationKind::multiply || op.kind == OperationKind::concatenate) {
    slabs(team, r, width * static_cast<int64_t>(op.inputs.size()), may_stop,
          [&](Range s) { join_backward(op, s, accumulate, spare); });
    return;
  }

  if (!input_needed) return;
  slabs(team, r, width, may_stop, [&](Range s) {
    for (int64_t k = s.begin; k < s.end; ++k) {
      T* to = accumulate[0] ? spare : dx.data + k * dx.row;
      const T* from = dy.data + k * dy.row;
      if (op.kind == OperationKind::dropout) {
        kernels.dropout({1, width, k, from, dy.row, to, dx.row, dropout_threshold(op.rate), dropout_scale<T>(op.rate),
                         key, step, op.stream});
      } else if (op.activation == Activation::softmax) {
        kernels.softmax_backward(1, width, from, dy.row, y.data + k * y.row, y.row, to, dx.row);
      } else {
        const View saved = derivative_needs_z(op.activation) ? x : y;
        kernels.activation_backward(op.activation, alpha, width, from, saved.data + k * saved.row, to);
      }
      if (accumulate[0]) kernels.add(width, spare, dx.data + k * dx.row);
    }
  });
}

template <class T>
void Run<T>::update(Team& team, const std::vector<char>& which) {
  for (int p = 0; p < instance->count(); ++p) {
    if (!which[p]) continue;
    const auto& s = instance->slice(p);
    if (s.rows == 0 || s.cols == 0) continue;
    const Region part = part_of(s);
    const Range rows = part.rows.of(team.rank, s.rows), cols = part.cols.of(team.rank, s.cols);
    hazards->reads(space.things.sum(p), part);
    hazards->writes(space.things.parameter(p), part);
    hazards->settle(team);
    instance->each_part(p, cols, [&](Range some, int64_t origin, int64_t row) {
      for (int64_t r = rows.begin; r < rows.end; ++r) {
        const int64_t at = origin + r * row + some.begin;
        optimize(p, at, some.size(), instance->gradients.data() + at);
      }
    });
    renew_copies(p, rows, cols);
  }
}

#define FP_INSTANTIATE(T)                                                                                       \
  template void Run<T>::backward(Team&, int, int, const BackwardPlan&, const std::vector<Destination>&,         \
                                 const std::vector<char>&, bool);                                               \
  template void Run<T>::backward_values(Team&, int, int, const BackwardPlan&, bool);                            \
  template void Run<T>::backward_weights(Team&, int, int, const BackwardPlan&, const std::vector<Destination>&, \
                                         const std::vector<char>&, bool);                                       \
  template void Run<T>::parameters_of(Team&, int, const BackwardPlan&, const std::vector<Destination>&,         \
                                      const std::vector<char>&, bool);                                          \
  template void Run<T>::backward_operation(Team&, int, const std::vector<char>&, bool);                         \
  template void Run<T>::update(Team&, const std::vector<char>&);
FP_INSTANTIATE(float)
FP_INSTANTIATE(double)
#undef FP_INSTANTIATE

}  // namespace fp
