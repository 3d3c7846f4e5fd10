// The dense operations of a mixed network's run: the same products as in dense.cpp with bfloat16 operands, which are
// packed first or were left packed by the product that made them.
#include <algorithm>

#include "network/cuts.hpp"

namespace fp {

namespace {

// Columns of an input gradient that are computed before the same columns of the input are packed, which the derivative
// has just brought into cache.
constexpr int64_t kColumnsTogether = 96;

}  // namespace

template <class T>
template <class Pack, class F>
void Run<T>::packed_pieces(Team& team, Range rows, Range cols, int64_t depth, bool may_stop, const void* kept,
                           Pack&& pack, F&& f)
  requires kMixes<T>
{
  if (cols.size() <= 0) return;
  void* room = space.packed.slab(team.rank);
  for (int64_t at = rows.begin; at < rows.end; at += products()->slab_rows) {
    if (may_stop && interrupt.stopped()) return;
    const Range slab{at, std::min(at + products()->slab_rows, rows.end)};
    if (!kept) pack(slab, room);
    const ops::Left16 left = kept ? ops::Left16{kept, {0, n}} : ops::Left16{room, slab};
    pieces(team, slab, cols, depth, may_stop, [&](Range r, Range c) { f(left, r, c); });
  }
}

template <class T>
void Run<T>::dense_forward16(Team& team, int i, Range rows, Range cols)
  requires kMixes<T>
{
  const Operation& op = program.operations[i];
  const View x = value(op.input()), y = value(op.output);
  const int64_t in = program.widths[op.input()];
  T* z = training ? space.pre[i].data : nullptr;
  ops::Result16 result{{y.data, n, program.widths[op.output], y.row}};
  if (keeps_value(op.output)) {
    result = kept_result(op.output);
    result.kept.left = space.packed.value(op.output);
  }
  packed_pieces(
      team, rows, cols, in, true, keeps_value(op.input()) ? kept_value(op.input()) : nullptr,
      [&](Range slab, void* room) { ops::pack_slab16(*products(), {x.data, n, in, x.row}, slab, room); },
      [&](ops::Left16 left, Range r, Range c) {
        ops::dense_forward16(*products(), left, in, instance->packed.forward(op.weights), instance->vector(op.bias),
                             op.activation, static_cast<T>(op.alpha), z, space.pre[i].row, result, r, c,
                             space.thread_scratch(team.rank));
      });
}

template <class T>
void Run<T>::input_gradient16(Team& team, int i, Derivative before, bool accumulate, bool may_stop, Range rows,
                              Range cols)
  requires kMixes<T>
{
  const Operation& op = program.operations[i];
  const int64_t width = program.widths[op.output];
  const View dy = gradient(op.output), dx = gradient(op.input());
  ops::Result16 result{{dx.data, n, program.widths[op.input()], dx.row}};
  if (keeps_gradient(op.input())) result = kept_gradient(op.input(), before.saved == value(op.input()).data);
  if (result.kept.saved) before.saved = nullptr;
  const bool along = packs_along(i);
  packed_pieces(
      team, rows, cols, width, may_stop, keeps_gradient(op.output) ? space.packed.gradient_left(op.output) : nullptr,
      [&](Range slab, void* room) {
        if (along) return pack_gradient(i, slab, room);
        ops::pack_slab16(*products(), {dy.data, n, width, dy.row}, slab, room);
      },
      [&](ops::Left16 left, Range r, Range c) {
        const int64_t wide = along ? kColumnsTogether : c.size();
        for (int64_t at = c.begin; at < c.end; at += wide) {
          const Range together{at, std::min(at + wide, c.end)};
          ops::dense_backward_input16(*products(), left, width, instance->packed.backward(op.weights), before.saved,
                                      before.row, before.activation, before.alpha, accumulate, result, r, together,
                                      space.thread_scratch(team.rank));
          if (along) pack_input(i, r, together);
        }
      });
}

template <class T>
void Run<T>::weights_of16(Team& team, int i, bool accumulate, bool fuse, Epilogue<T> e, bool may_stop, Range rows,
                          Range cols)
  requires kMixes<T>
{
  const Operation& op = program.operations[i];
  const int p = op.weights;
  const auto& s = instance->slice(p);
  auto& packed = space.packed.operands(i);
  const void* right = keeps_gradient(op.output) ? space.packed.gradient_right(op.output) : packed.dz.data();
  const Kept16 kept = fuse ? instance->packed.kept(p, s.rows, s.cols) : Kept16{};
  T* const block = (fuse ? instance->parameters : instance->gradients).data();
  pieces(team, rows, cols, n, may_stop, [&](Range inputs, Range outputs) {
    ops::in_parts16(*products(), inputs, outputs, [&](Range r, Range c) {
      instance->each_part(p, c, [&](Range some, int64_t origin, int64_t row) {
        if (fuse) e.velocity = instance->velocity_at(origin);
        ops::dense_backward_weights16(*products(), n, packed.x.data(), right, {block + origin, s.rows, s.cols, row},
                                      kept, accumulate, e, r, some, space.thread_scratch(team.rank));
      });
      if (fuse && !kept.right) instance->pack_part(p, r, c);
    });
  });
}

template <class T>
void Run<T>::column_sums16(int v, Range cols, T* sums, bool accumulate)
  requires kMixes<T>
{
  kernels.column_sums((n + kSums16 - 1) / kSums16, cols.size(), space.packed.gradient_sums(v) + cols.begin,
                      PackedBatch::sums_row(program.widths[v]), sums, accumulate, 1);
}

template <class T>
ops::Result16 Run<T>::kept_gradient(int v, bool from_value)
  requires kMixes<T>
{
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
void Run<T>::pack_gradient(int i, Range rows, void* slab)
  requires kMixes<T>
{
  const Operation& op = program.operations[i];
  if (keeps_gradient(op.output)) return;
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

template <class T>
void Run<T>::pack_input(int i, Range rows, Range cols)
  requires kMixes<T>
{
  const Operation& op = program.operations[i];
  const View x = value(op.input());
  const Pack16 part{x.data,   x.row,      n,        program.widths[op.input()],       rows.begin,
                    rows.end, cols.begin, cols.end, space.packed.operands(i).x.data()};
  if (keeps_value(op.input()))
    products()->pack_left_transposed_kept(part, kept_value(op.input()));
  else
    products()->pack_left_transposed(part);
}

template <class T>
void Run<T>::pack_operands(Team& team, int i, bool may_stop)
  requires kMixes<T>
{
  const Operation& op = program.operations[i];
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

template void Run<float>::dense_forward16(Team&, int, Range, Range);
template void Run<float>::input_gradient16(Team&, int, Derivative, bool, bool, Range, Range);
template void Run<float>::weights_of16(Team&, int, bool, bool, Epilogue<float>, bool, Range, Range);
template void Run<float>::column_sums16(int, Range, float*, bool);
template ops::Result16 Run<float>::kept_gradient(int, bool);
template void Run<float>::pack_gradient(int, Range, void*);
template void Run<float>::pack_input(int, Range, Range);
template void Run<float>::pack_operands(Team&, int, bool);

}  // namespace fp
