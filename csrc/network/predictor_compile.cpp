// How a predictor is made: a copy of the weights, and a program's operations as steps over slots of memory.
#include <algorithm>
#include <cstring>
#include <utility>

#include "network/plan.hpp"
#include "network/predictor.hpp"
#include "network/workspace.hpp"
#include "network/worth.hpp"

namespace fp {

template <class T>
bool Predictor<T>::can_run(const Program& program) {
  return program.outputs.size() == 1 &&
         std::none_of(program.operations.begin(), program.operations.end(), [](const Operation& op) {
           return op.kind == OperationKind::python || op.kind == OperationKind::columns;
         });
}

template <class T>
Predictor<T>::Predictor(const Program& program, const Instance<T>& instance, Occupancy::Changes changes)
    : inputs_(program.widths[0]),
      outputs_(program.widths[static_cast<std::size_t>(program.output(0))]),
      changes_(std::move(changes)),
      changes_then_(changes_->load(std::memory_order_acquire)) {
  copy_weights(program, instance);
  if (program.mixed) pack_weights(program);
  compile(program);
  row_need_ = need(kernels_in_use(), 1);
  row_is_small_ =
      (slots_ + 1) * slot_row_ <= kStack &&
      (products_ ? row_need_.size() <= kStackRoom : std::all_of(steps_.begin(), steps_.end(), [&](const Step& s) {
        return s.kind != OperationKind::dense || copies_[s.weights].parted.is_whole();
      }));
}

template <class T>
void Predictor<T>::copy_weights(const Program& program, const Instance<T>& instance) {
  int64_t size = 0;
  for (const Parameter& p : program.parameters) size += p.rows * padded(p.cols);
  block_ = Buffer<T>(size);
  T* at = block_.data();
  for (int p = 0; p < static_cast<int>(program.parameters.size()); ++p) {
    const auto& s = instance.slice(p);
    const int64_t row = padded(s.cols);
    copies_.push_back({at, s.cols, parted_if_large(s.rows, row, sizeof(T), program.mixed ? row : kPartColumns)});
    instance.each_weights(p, {0, s.cols}, [&](Range some, ops::Matrix<const T> w) {
      each_part(copies_.back().parted, some, [&](Range cols, int64_t origin, int64_t to_row) {
        for (int64_t i = 0; i < s.rows; ++i)
          std::memcpy(at + origin + i * to_row + cols.begin, w.data + i * w.row + cols.begin,
                      sizeof(T) * static_cast<std::size_t>(cols.size()));
      });
    });
    at += s.rows * padded(s.cols);
  }
}

template <class T>
void Predictor<T>::pack_weights(const Program& program) {
  if constexpr (kMixes<T>) {
    products_ = &products16();
    kernels_ = &kernels<T>();
    packed_.resize(copies_.size());
    for (const Operation& op : program.operations) {
      if (op.kind != OperationKind::dense || packed_[op.weights].size() > 0) continue;
      const Copy& w = copies_[op.weights];
      packed_[op.weights] = Buffer<char>(products_->right_bytes(w.parted.rows, w.cols));
      const int64_t rows = w.parted.rows;
      products_->pack_right({w.data, w.parted.row, rows, w.cols, 0, rows, 0, w.cols, packed_[op.weights].data()});
    }
  }
}

template <class T>
void Predictor<T>::add_step(Step s) {
  if (s.kind == OperationKind::dense) {
    const double flop = 2.0 * static_cast<double>(s.in) * static_cast<double>(s.out);
    widest_flop_ = std::max(widest_flop_, flop);
    flop_ += flop;
  }
  flop_ += kFlopPerElement * static_cast<double>(s.out);
  steps_.push_back(s);
}

template <class T>
void Predictor<T>::compile(const Program& program) {
  const auto& ops = program.operations;
  const std::vector<int> is = inference_values(program);
  std::vector<int> last(program.widths.size(), -1);  // operation that reads the value
  for (std::size_t i = 0; i < ops.size(); ++i)
    if (ops[i].kind != OperationKind::dropout)
      for (int v : ops[i].inputs) last[is[v]] = static_cast<int>(i);
  const int output = is[program.output(0)];

  std::vector<int> slot(program.widths.size(), kInput);
  std::vector<char> taken;
  int64_t widest = 0;
  for (std::size_t i = 0; i < ops.size(); ++i) {
    const Operation& op = ops[i];
    if (op.kind == OperationKind::dropout || (last[op.output] < 0 && op.output != output)) continue;
    const int64_t out = program.widths[op.output];
    // Where the caller wants the result lies only what nobody reads.
    int to = kOutput;
    if (op.output != output || last[op.output] >= 0) {
      to = static_cast<int>(std::find(taken.begin(), taken.end(), 0) - taken.begin());
      if (to == static_cast<int>(taken.size())) taken.push_back(0);
      taken[to] = 1;
      widest = std::max(widest, out);
    }
    slot[op.output] = to;
    Step s{};
    s.kind = OperationKind::activation;
    s.weights = s.bias = -1;
    s.to = to;
    s.to_row = out;
    if (op.kind == OperationKind::dense || op.kind == OperationKind::activation) {
      s.kind = op.kind;
      s.activation = op.activation;
      s.alpha = static_cast<T>(op.alpha);
      s.in = program.widths[op.input()];
      s.out = out;
      s.from = slot[is[op.input()]];
      if (op.kind == OperationKind::dense) {
        s.weights = op.weights;
        s.bias = op.bias;
      }
      add_step(s);
    } else {
      for (std::size_t j = 0; j < op.inputs.size(); ++j) {
        if (j > 0 && op.kind != OperationKind::concatenate) s.kind = op.kind;
        s.in = s.out = program.widths[op.inputs[j]];
        s.from = slot[is[op.inputs[j]]];
        add_step(s);
        if (op.kind == OperationKind::concatenate) s.to_begin += s.out;
      }
    }
    for (int v : op.inputs)
      if (last[is[v]] == static_cast<int>(i) && slot[is[v]] >= 0 && is[v] != output) taken[slot[is[v]]] = 0;
  }
  slots_ = static_cast<int>(taken.size());
  // One more, where dense_row may write beyond the caller's columns.
  slot_row_ = batch_row<T>(padded(std::max(widest, outputs_)));

  // The result may be a value that no step writes to the caller: the input itself, or one that others read too.
  if (steps_.empty() || steps_.back().to != kOutput) {
    Step copy{};
    copy.kind = OperationKind::activation;
    copy.activation = Activation::linear;
    copy.weights = copy.bias = -1;
    copy.in = copy.out = copy.to_row = outputs_;
    copy.from = slot[output];
    copy.to = kOutput;
    if (copy.from != kOutput) steps_.push_back(copy);
  }
}

#define FP_INSTANTIATE(T)                                                                   \
  template bool Predictor<T>::can_run(const Program&);                                      \
  template Predictor<T>::Predictor(const Program&, const Instance<T>&, Occupancy::Changes); \
  template void Predictor<T>::copy_weights(const Program&, const Instance<T>&);             \
  template void Predictor<T>::pack_weights(const Program&);                                 \
  template void Predictor<T>::compile(const Program&);                                      \
  template void Predictor<T>::add_step(Step);
FP_INSTANTIATE(float)
FP_INSTANTIATE(double)
#undef FP_INSTANTIATE

}  // namespace fp
