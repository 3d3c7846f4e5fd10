// How a predictor is made: a copy of the weights, and a program's operations as steps over slots of memory.
#include <algorithm>
#include <cstddef>
#include <cstring>
#include <utility>

#include "network/plan.hpp"
#include "network/predictor.hpp"
#include "network/workspace.hpp"
#include "network/worth.hpp"

namespace fp {

namespace {

// Memory for values between steps: what is free again is taken first.
class Slots {
 public:
  int take() {
    const auto at = std::find(taken_.begin(), taken_.end(), 0) - taken_.begin();
    if (at == static_cast<std::ptrdiff_t>(taken_.size())) taken_.push_back(0);
    taken_[at] = 1;
    return static_cast<int>(at);
  }
  void give_back(int slot) { taken_[slot] = 0; }
  int count() const { return static_cast<int>(taken_.size()); }

 private:
  std::vector<char> taken_;
};

}  // namespace

template <class T>
bool Predictor<T>::can_run(const Program& program) {
  return program.is_native() && !program.inputs().empty();
}

template <class T>
Predictor<T>::Predictor(const Program& program, const Instance<T>& instance, Occupancy::Changes changes)
    : changes_(std::move(changes)), changes_then_(changes_->load(std::memory_order_acquire)) {
  for (int v : program.inputs()) inputs_.push_back(program.widths[v]);
  for (int v : program.outputs) outputs_.push_back(program.widths[v]);
  copy_weights(program, instance);
  if (program.mixed) pack_weights(program);
  compile(program);
  row_need_ = need(kernels_in_use(), 1);
  row_is_small_ =
      (slots_ + static_cast<int64_t>(outputs_.size())) * slot_row_ <= kStack &&
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
void Predictor<T>::add_operation(const Program& program, const Operation& op, const std::vector<int>& from, int to) {
  Step s;
  s.to = to;
  s.to_row = program.widths[op.output];
  if (op.kind == OperationKind::dense || op.kind == OperationKind::activation) {
    s.kind = op.kind;
    s.activation = op.activation;
    s.alpha = static_cast<T>(op.alpha);
    s.in = program.widths[op.input()];
    s.out = s.to_row;
    s.from = from[0];
    if (op.kind == OperationKind::dense) {
      s.weights = op.weights;
      s.bias = op.bias;
    }
    return add_step(s);
  }
  for (std::size_t j = 0; j < op.inputs.size(); ++j) {
    if (j > 0 && op.kind != OperationKind::concatenate) s.kind = op.kind;
    s.in = s.out = program.widths[op.inputs[j]];
    s.from = from[j];
    add_step(s);
    if (op.kind == OperationKind::concatenate) s.to_begin += s.out;
  }
}

template <class T>
void Predictor<T>::compile(const Program& program) {
  const auto& ops = program.operations;
  const std::vector<int> is = inference_values(program);
  std::vector<int> last(program.widths.size(), -1);  // operation that reads the value
  for (std::size_t i = 0; i < ops.size(); ++i)
    if (ops[i].kind != OperationKind::dropout)
      for (int v : ops[i].inputs) last[is[v]] = static_cast<int>(i);
  std::vector<int> wanted(program.widths.size(), 0);  // outputs that the value is
  std::vector<int> outputs;
  for (int v : program.outputs) {
    outputs.push_back(is[v]);
    ++wanted[is[v]];
  }

  std::vector<int> slot(program.widths.size(), 0);
  const std::vector<int> inputs = program.inputs();
  for (std::size_t i = 0; i < inputs.size(); ++i) slot[inputs[i]] = ~static_cast<int>(i);
  std::vector<char> written(outputs.size(), 0);
  Slots slots;
  int64_t widest = *std::max_element(outputs_.begin(), outputs_.end());
  for (std::size_t i = 0; i < ops.size(); ++i) {
    const Operation& op = ops[i];
    const int made = op.output;
    if (op.kind == OperationKind::dropout || op.kind == OperationKind::columns || (last[made] < 0 && !wanted[made]))
      continue;
    // Where the caller wants a result lies only what nobody reads.
    if (last[made] < 0 && wanted[made] == 1) {
      const auto place = std::find(outputs.begin(), outputs.end(), made) - outputs.begin();
      written[place] = 1;
      slot[made] = ~static_cast<int>(place);
    } else {
      slot[made] = slots.take();
      widest = std::max(widest, program.widths[made]);
    }
    std::vector<int> from;
    for (int v : op.inputs) from.push_back(slot[is[v]]);
    add_operation(program, op, from, slot[made]);
    for (int v : op.inputs)
      if (last[is[v]] == static_cast<int>(i) && slot[is[v]] >= 0 && !wanted[is[v]]) slots.give_back(slot[is[v]]);
  }
  slots_ = slots.count();
  // Wide enough for outputs, too: a single row has slots for them, where dense_row may write beyond their columns.
  slot_row_ = batch_row<T>(padded(widest));

  // A result may be a value that no step writes to the caller: an input, or one that others read or want too.
  for (std::size_t i = 0; i < outputs.size(); ++i) {
    if (written[i]) continue;
    Step copy;
    copy.in = copy.out = copy.to_row = outputs_[i];
    copy.from = slot[outputs[i]];
    copy.to = ~static_cast<int>(i);
    add_step(copy);
  }
}

#define FP_INSTANTIATE(T)                                                                                    \
  template bool Predictor<T>::can_run(const Program&);                                                       \
  template Predictor<T>::Predictor(const Program&, const Instance<T>&, Occupancy::Changes);                  \
  template void Predictor<T>::copy_weights(const Program&, const Instance<T>&);                              \
  template void Predictor<T>::pack_weights(const Program&);                                                  \
  template void Predictor<T>::compile(const Program&);                                                       \
  template void Predictor<T>::add_operation(const Program&, const Operation&, const std::vector<int>&, int); \
  template void Predictor<T>::add_step(Step);
FP_INSTANTIATE(float)
FP_INSTANTIATE(double)
#undef FP_INSTANTIATE

}  // namespace fp
