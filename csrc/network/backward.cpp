// The backward pass over a batch: gradients of values, gradients of parameters, and the optimizer.
#include <algorithm>
#include <type_traits>

#include "network/cuts.hpp"

namespace fp {

namespace {

// Columns of an input gradient that are computed before the same columns of the input are packed, which the derivative
// has just brought into cache.
constexpr int64_t kColumnsTogether = 96;

}  // namespace

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
    pack_operands(team, i, may_stop);
    parameters_of(team, i, pass, to, begun, may_stop);
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
  T* spare = space.spare.data() + team.rank * space.spare_row;

  if (op.kind == OperationKind::dense) {
    if (op.activation != Activation::linear && !plan.derivative_fused[op.output]) {
      const View saved = derivative_needs_z(op.activation) ? View{space.pre[i].data, space.pre[i].row} : y;
      const Region part = part_of(width);
      const Range cols = part.cols.of(team.rank, width);
      reads_value(op.output, part);
      writes_gradient(op.output, part);
      hazards->settle(team);
      slabs(team, part.rows.of(team.rank, n), cols.size(), may_stop, [&](Range s) {
        for (int64_t k = s.begin; k < s.end; ++k) {
          T* at = dy.data + k * dy.row + cols.begin;
          kernels.activation_backward(op.activation, alpha, cols.size(), at, saved.data + k * saved.row + cols.begin,
                                      at);
        }
      });
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
    const Region part = part_of(in);
    const Range r = part.rows.of(team.rank, n), c = part.cols.of(team.rank, in);
    const bool share = products() && packs_along(i);
    reads_gradient(op.output, {part.rows, {}});
    hazards->reads(space.things.parameter(op.weights), {part.cols, {}});
    if (saved || share) reads_value(op.input(), part);
    writes_gradient(op.input(), part);
    if (share) writes_operands(i, part);
    hazards->settle(team);
    const bool add = accumulate[0] != 0;
    if constexpr (std::is_same_v<T, float>) {
      if (products()) {
        const ops::Result16 result = keeps_gradient(op.input()) ? kept_gradient(op.input(), saved == x.data)
                                                                : ops::Result16{{dx.data, n, in, dx.row}};
        packed_pieces(
            team, r, c, width, may_stop, keeps_gradient(op.output) ? space.packed.gradient_left(op.output) : nullptr,
            [&](Range slab, void* room) {
              if (!share) return ops::pack_slab16(*products(), {dy.data, n, width, dy.row}, slab, room);
              pack_gradient(i, slab, room);
            },
            [&](ops::Left16 left, Range rows, Range cols) {
              const int64_t wide = share ? kColumnsTogether : cols.size();
              for (int64_t at = cols.begin; at < cols.end; at += wide) {
                const Range together{at, std::min(at + wide, cols.end)};
                ops::dense_backward_input16(*products(), left, width, instance->packed.backward(op.weights),
                                            result.kept.saved ? nullptr : saved, saved_row, act, act_alpha, add, result,
                                            rows, together, space.thread_scratch(team.rank));
                if (share) pack_input(i, rows, together);
              }
            });
        return;
      }
    }
    pieces(team, r, c, width, may_stop, [&](Range rows, Range cols) {
      instance->each_transposed(op.weights, cols, [&](Range some, ops::Matrix<const T> wt) {
        ops::dense_backward_input<T>(kernels, {dy.data, n, width, dy.row}, wt, saved, saved_row, act, act_alpha, add,
                                     {dx.data, n, in, dx.row}, rows, some, space.thread_scratch(team.rank));
      });
    });
    return;
  }

  if (op.kind == OperationKind::columns || op.kind == OperationKind::python) return;
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
ops::Result16 Run<T>::kept_gradient(int v, bool from_value) {
  const Operation& made = program.operations[plan.producer[v]];
  ops::Result16 result = kept_result(v);
  Kept16& kept = result.kept;
  if (plan.wanted[made.input()]) kept.left = space.packed.gradient_left(v);
  if (plan.trainable[made.weights]) kept.right = space.packed.gradient_right(v);
  if (made.bias >= 0 && plan.trainable[made.bias]) kept.sums = space.packed.gradient_sums(v);
  kept.sums_row = PackedBatch::sums_row(kept.cols);
  if (from_value && keeps_value(v)) kept.saved = space.packed.value(v);
  return result;
}

template <class T>
bool Run<T>::packs_along(int i) const {
  const Operation& op = program.operations[i];
  return way.across == 1 && plan.trainable[op.weights] && plan.wanted[op.input()];
}

template <class T>
void Run<T>::pack_gradient([[maybe_unused]] int i, [[maybe_unused]] Range rows, [[maybe_unused]] void* slab) {
  if constexpr (std::is_same_v<T, float>) {
    const Operation& op = program.operations[i];
    const int64_t out = program.widths[op.output];
    if (keeps_gradient(op.output)) return;
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
    const Pack16 part{x.data,   x.row,      n,        program.widths[op.input()],       rows.begin,
                      rows.end, cols.begin, cols.end, space.packed.operands(i).x.data()};
    if (keeps_value(op.input()))
      products()->pack_left_transposed_kept(part, kept_value(op.input()));
    else
      products()->pack_left_transposed(part);
  }
}

template <class T>
void Run<T>::pack_operands(Team& team, int i, bool may_stop) {
  const Operation& op = program.operations[i];
  if (!products() || op.weights < 0 || !plan.trainable[op.weights] || packs_along(i)) return;
  const int64_t in = program.widths[op.input()], out = program.widths[op.output];
  // By rows: those that this thread has computed; nobody has waited for the others yet.
  Region part = own_rows();
  if (way.across > 1) part.rows = Cut(team.size, 1, kGrain16);
  reads_value(op.input(), part);
  if (!keeps_gradient(op.output)) reads_gradient(op.output, part);
  writes_operands(i, part);
  hazards->settle(team);
  slabs(team, part.rows.of(team.rank, n), in + out, may_stop, [&](Range r) {
    pack_input(i, r, {0, in});
    pack_gradient(i, r, nullptr);
  });
}

template <class T>
void Run<T>::weights_of(Team& team, int i, bool accumulate, bool fuse, bool may_stop) {
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
  hazards->settle(team);
  Epilogue<T> e{};
  if (fuse) {
    e.kind = EpilogueKind::sgd;
    e.learning_rate = learning_rate(p);
    e.momentum = static_cast<T>(instance->sgd.momentum);
    e.nesterov = instance->sgd.nesterov;
  }
  T* const block = (fuse ? instance->parameters : instance->gradients).data();
  pieces(team, part.rows.of(team.rank, s.rows), part.cols.of(team.rank, s.cols), n, may_stop,
         [&](Range inputs, Range outputs) {
           if constexpr (std::is_same_v<T, float>) {
             if (products()) {
               auto& packed = space.packed.operands(i);
               const void* right =
                   keeps_gradient(op.output) ? space.packed.gradient_right(op.output) : packed.dz.data();
               const Kept16 kept = fuse ? instance->packed.kept(p, s.rows, s.cols) : Kept16{};
               return ops::in_parts16(*products(), inputs, outputs, [&](Range rows, Range cols) {
                 instance->each_part(p, cols, [&](Range some, int64_t origin, int64_t row) {
                   if (fuse) e.velocity = instance->velocity_at(origin);
                   ops::dense_backward_weights16(*products(), n, packed.x.data(), right,
                                                 {block + origin, s.rows, s.cols, row}, kept, accumulate, e, rows, some,
                                                 space.thread_scratch(team.rank));
                 });
                 if (fuse && !kept.right) instance->pack_part(p, rows, cols);
               });
             }
           }
           instance->each_share(p, outputs, [&](Range some, Range share, int64_t origin) {
             if (fuse) e.velocity = instance->velocity_at(origin);
             ops::dense_backward_weights<T>(
                 kernels, operand(op.input()), {dz.data + share.begin, n, share.size(), dz.row},
                 {block + origin, s.rows, share.size(), share.size()}, accumulate, e, inputs,
                 {some.begin - share.begin, some.end - share.begin}, space.thread_scratch(team.rank), s.part);
           });
           if (fuse) renew_copies(p, inputs, outputs);
         });
}

template <class T>
void Run<T>::bias_of(Team& team, int i, bool accumulate, bool fuse) {
  const Operation& op = program.operations[i];
  const View dz = gradient(op.output);
  const Region part = part_of(instance->slice(op.bias));
  const Range c = part.cols.of(team.rank, program.widths[op.output]);
  reads_gradient(op.output, {{}, part.cols});
  hazards->writes(space.things.sum(op.bias), part);
  if (fuse) hazards->writes(space.things.parameter(op.bias), part);
  hazards->settle(team);
  if (c.size() <= 0) return;
  T* db = instance->at(instance->gradients, op.bias) + c.begin;
  bool from_blocks = false;
  if constexpr (std::is_same_v<T, float>) {
    from_blocks = keeps_gradient(op.output);
    if (from_blocks)
      kernels.column_sums((n + kSums16 - 1) / kSums16, c.size(), space.packed.gradient_sums(op.output) + c.begin,
                          PackedBatch::sums_row(program.widths[op.output]), db, accumulate, 1);
  }
  if (!from_blocks)
    kernels.column_sums(n, c.size(), dz.data + c.begin, dz.row, db, accumulate, program.mixed ? kSums16 : kRowBlock);
  if (fuse) optimize(op.bias, instance->slice(op.bias).offset + c.begin, c.size(), db);
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
  template ops::Result16 Run<T>::kept_gradient(int, bool);                                                      \
  template bool Run<T>::packs_along(int) const;                                                                 \
  template void Run<T>::pack_gradient(int, Range, void*);                                                       \
  template void Run<T>::pack_input(int, Range, Range);                                                          \
  template void Run<T>::pack_operands(Team&, int, bool);                                                        \
  template void Run<T>::weights_of(Team&, int, bool, bool, bool);                                               \
  template void Run<T>::bias_of(Team&, int, bool, bool);                                                        \
  template void Run<T>::update(Team&, const std::vector<char>&);
FP_INSTANTIATE(float)
FP_INSTANTIATE(double)
#undef FP_INSTANTIATE

}  // namespace fp
