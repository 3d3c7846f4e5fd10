// The dense operations of a run: the products of the forward pass, of the input's gradient and of the weights'
// gradient, and the biases' gradients. Those of a mixed network are in dense_mixed.cpp.
#include "network/cuts.hpp"

namespace fp {

namespace {

// Of the left operand of a weights' gradient.
constexpr int64_t kFarBytes = int64_t(4) << 20;

}  // namespace

template <class T>
void Run<T>::dense_forward(Team& team, int i, const Work& work) {
  if constexpr (kMixes<T>)
    if (products()) return dense_forward16(team, i, work.rows_of(team.rank), work.cols_of(team.rank));
  const Operation& op = program.operations[i];
  const View y = value(op.output);
  T* z = training ? space.pre[i].data : nullptr;
  work_on(team, work, true, [&](Range r, Range c) {
    instance->each_weights(op.weights, c, [&](Range some, ops::Matrix<const T> w) {
      ops::dense_forward<T>(kernels, operand(op.input()), w, instance->vector(op.bias), op.activation,
                            static_cast<T>(op.alpha), z, space.pre[i].row, {y.data, n, w.cols, y.row, true}, r, some,
                            space.thread_scratch(team.rank));
    });
  });
}

template <class T>
void Run<T>::dense_backward(Team& team, int i, bool accumulate, bool may_stop) {
  const Operation& op = program.operations[i];
  if (op.activation != Activation::linear && !plan.derivative_fused[op.output]) dense_derivative(team, i, may_stop);
  if (plan.wanted[op.input()]) input_gradient(team, i, accumulate, may_stop);
  if constexpr (kMixes<T>)
    if (products() && plan.trainable[op.weights] && !packs_along(i)) pack_operands(team, i, may_stop);
}

template <class T>
void Run<T>::dense_derivative(Team& team, int i, bool may_stop) {
  const Operation& op = program.operations[i];
  const int64_t width = program.widths[op.output];
  const View dy = gradient(op.output),
             saved = derivative_needs_z(op.activation) ? View{space.pre[i].data, space.pre[i].row} : value(op.output);
  const Region part = part_of(width);
  const Range cols = part.cols.of(team.rank, width);
  reads_value(op.output, part);
  writes_gradient(op.output, part);
  hazards->settle(team);
  slabs(team, part.rows.of(team.rank, n), cols.size(), may_stop, [&](Range s) {
    for (int64_t k = s.begin; k < s.end; ++k) {
      T* at = dy.data + k * dy.row + cols.begin;
      kernels.activation_backward(op.activation, static_cast<T>(op.alpha), cols.size(), at,
                                  saved.data + k * saved.row + cols.begin, at);
    }
  });
}

template <class T>
void Run<T>::input_gradient(Team& team, int i, bool accumulate, bool may_stop) {
  const Operation& op = program.operations[i];
  const int64_t width = program.widths[op.output], in = program.widths[op.input()];
  const View dy = gradient(op.output), dx = gradient(op.input());
  Derivative before{};
  if (plan.derivative_fused[op.input()]) {
    const int made = plan.producer[op.input()];
    const Operation& maker = program.operations[made];
    const View saved =
        derivative_needs_z(maker.activation) ? View{space.pre[made].data, space.pre[made].row} : value(op.input());
    before = {maker.activation, static_cast<T>(maker.alpha), saved.data, saved.row};
  }
  const Region part = part_of(in);
  const bool share = packs_along(i);
  reads_gradient(op.output, {part.rows, {}});
  hazards->reads(space.things.parameter(op.weights), {part.cols, {}});
  if (before.saved || share) reads_value(op.input(), part);
  writes_gradient(op.input(), part);
  if (share) writes_operands(i, part);
  const Work work{.part = part, .rows = n, .cols = in, .depth = width};
  offer(team, work);
  hazards->settle(team);
  if constexpr (kMixes<T>)
    if (products())
      return input_gradient16(team, i, before, accumulate, may_stop, work.rows_of(team.rank), work.cols_of(team.rank));
  work_on(team, work, may_stop, [&](Range r, Range c) {
    instance->each_transposed(op.weights, c, [&](Range some, ops::Matrix<const T> wt) {
      ops::dense_backward_input<T>(kernels, {dy.data, n, width, dy.row}, wt, before.saved, before.row,
                                   before.activation, before.alpha, accumulate, {dx.data, n, in, dx.row, true}, r, some,
                                   space.thread_scratch(team.rank));
    });
  });
}

template <class T>
void Run<T>::weights_of(Team& team, int i, bool accumulate, bool fuse, bool may_stop, bool with_bias) {
  const Operation& op = program.operations[i];
  const int p = op.weights;
  const auto& s = instance->slice(p);
  const View dz = gradient(op.output);
  const Region part = part_of(s);
  if (products()) {
    reads_operands(i, Region::all());
    if (keeps_gradient(op.output)) reads_gradient(op.output, Region::all());
  } else {
    reads_value(op.input(), {{}, part.rows});
    reads_gradient(op.output, {{}, part.cols});
  }
  hazards->writes(fuse ? space.things.parameter(p) : space.things.sum(p), part);
  if (with_bias) {  // each thread has that of its columns, if it has their first row
    hazards->writes(space.things.sum(op.bias), part);
    if (fuse) hazards->writes(space.things.parameter(op.bias), part);
  }
  // Rows read few columns of x, again for each panel of dz. Where even few are too many for the inner caches, columns
  // at least pack each panel only once.
  const bool gives_rows = s.rows * n * static_cast<int64_t>(sizeof(T)) < kFarBytes;
  const Work work{.part = part,
                  .rows = s.rows,
                  .cols = s.cols,
                  .depth = n,
                  .gives_rows = gives_rows,
                  .in_shares = instance->shares() > 1};
  offer(team, work);
  hazards->settle(team);
  Epilogue<T> e{};
  if (fuse) {
    e.kind = EpilogueKind::sgd;
    e.learning_rate = learning_rate(p);
    e.momentum = static_cast<T>(instance->sgd.momentum);
    e.nesterov = instance->sgd.nesterov;
  }
  if constexpr (kMixes<T>)
    if (products())
      return weights_of16(team, i, accumulate, fuse, e, may_stop, work.rows_of(team.rank), work.cols_of(team.rank));
  T* const block = (fuse ? instance->parameters : instance->gradients).data();
  work_on(team, work, may_stop, [&](Range inputs, Range outputs) {
    instance->each_share(p, outputs, [&](Range some, Range share, int64_t origin) {
      if (fuse) e.velocity = instance->velocity_at(origin);
      const int64_t width = s.cols_in(share);
      T* const db = with_bias && inputs.begin == 0 ? instance->at(instance->gradients, op.bias) + some.begin : nullptr;
      ops::dense_backward_weights<T>(kernels, operand(op.input()), {dz.data + share.begin, n, width, dz.row, true},
                                     {block + origin, s.rows, width, share.size(), s.padded()}, accumulate, e, inputs,
                                     {some.begin - share.begin, some.end - share.begin},
                                     space.thread_scratch(team.rank), s.part, db);
      if (db && fuse) optimize(op.bias, instance->slice(op.bias).offset + some.begin, some.size(), db);
    });
    if (fuse) renew_copies(p, inputs, outputs);
  });
}

template <class T>
void Run<T>::column_sums(int v, Range cols, T* sums, bool accumulate) {
  if constexpr (kMixes<T>)
    if (keeps_gradient(v)) return column_sums16(v, cols, sums, accumulate);
  const View dz = gradient(v);
  kernels.column_sums(n, cols.size(), dz.data + cols.begin, dz.row, sums, accumulate,
                      program.mixed ? kSums16 : kRowBlock);
}

template <class T>
void Run<T>::bias_of(Team& team, int i, bool accumulate, bool fuse) {
  const Operation& op = program.operations[i];
  const Region part = part_of(instance->slice(op.bias));
  const Range c = part.cols.of(team.rank, program.widths[op.output]);
  reads_gradient(op.output, {{}, part.cols});
  hazards->writes(space.things.sum(op.bias), part);
  if (fuse) hazards->writes(space.things.parameter(op.bias), part);
  hazards->settle(team);
  if (c.size() <= 0) return;
  T* db = instance->at(instance->gradients, op.bias) + c.begin;
  column_sums(op.output, c, db, accumulate);
  if (fuse) optimize(op.bias, instance->slice(op.bias).offset + c.begin, c.size(), db);
}

#define FP_INSTANTIATE(T)                                               \
  template void Run<T>::dense_forward(Team&, int, const Work&);         \
  template void Run<T>::dense_backward(Team&, int, bool, bool);         \
  template void Run<T>::dense_derivative(Team&, int, bool);             \
  template void Run<T>::input_gradient(Team&, int, bool, bool);         \
  template void Run<T>::weights_of(Team&, int, bool, bool, bool, bool); \
  template void Run<T>::bias_of(Team&, int, bool, bool);                \
  template void Run<T>::column_sums(int, Range, T*, bool);
FP_INSTANTIATE(float)
FP_INSTANTIATE(double)
#undef FP_INSTANTIATE

}  // namespace fp
