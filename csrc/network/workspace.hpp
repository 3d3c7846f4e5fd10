// A workspace: the memory one run of a program needs for batches of up to `capacity` rows on up to `threads` threads.
// Everything is allocated here, before the first step; steps allocate nothing.
#pragma once

#include <algorithm>
#include <vector>

#include "network/hazards.hpp"
#include "network/heads.hpp"
#include "network/instance.hpp"
#include "network/mixed.hpp"
#include "ops/dense.hpp"
#include "runtime/claims.hpp"
#include "runtime/memory.hpp"

namespace fp {

// Row stride of a batch's matrix: whole cache lines, and no multiple of kCrowded.
template <class T>
int64_t batch_row(int64_t width) {
  const int64_t line = static_cast<int64_t>(kAlignment / sizeof(T));
  int64_t row = (width + line - 1) / line * line;
  if (row % static_cast<int64_t>(kCrowded / sizeof(T)) == 0) row += line;
  return row;
}

template <class T>
struct Workspace {
  int64_t capacity;
  int threads;
  bool training;               // has gradients and pre-activations
  const Kernels<T>* made_for;  // scratch sizes differ between instruction sets

  struct Block {
    Buffer<T> memory;
    T* data = nullptr;
    int64_t row = 0;
  };
  std::vector<Block> values, gradients;
  bool gradients_shared = false;
  std::vector<Block> pre;  // per operation: z, where the derivative needs it
  Buffer<T> spare;         // one row per thread, to add a further gradient to a value's
  int64_t spare_row = 0;
  Buffer<T> scratch;  // per thread
  int64_t scratch_size = 0;
  // The weight gradients' block sums, one layout of the parameters per block of the batch, in two places by turns:
  // where they are less than what threads would otherwise read of each other's rows.
  Buffer<T> block_sums;
  int64_t block_size = 0, most_blocks = 0;
  int block_shares = 1;  // the instance's, when they were last written

  // Of each head: the batch's targets and sample weights as gathered, and its row losses.
  struct Judgement {
    bool given = false;   // there are targets
    bool labels = false;  // in `label`, else in `target`
    bool weighted = false;
    double total = 0;  // sum of the weights, where something divides by it
    Block target;
    Buffer<int64_t> label;
    int64_t classes = 0;  // of the labels that may be there
    Buffer<T> weights;
    Buffer<double> losses;
  };
  std::vector<Judgement> heads;
  std::vector<Buffer<double>> metric_values;

  PackedBatch packed;  // of mixed precision

  // What threads have left to do of a product, and of the one before, which others may still look at.
  Claims claims[2];

  // Of each thread: its books, where the batch's rows lie, and room for rows of inputs that it gathers for itself.
  Things things;
  std::vector<Hazards> hazards;
  std::vector<Buffer<const T*>> each_rows;  // of this batch and the next one
  const T** each_row(int rank) { return each_rows[static_cast<std::size_t>(rank)].data(); }
  T* own_input(int rank) {
    return inputs.empty() ? nullptr : rank == 0 ? values[0].data : inputs[static_cast<std::size_t>(rank) - 1].data();
  }

  // products: the path of a mixed network, else nullptr.
  Workspace(const Program& program, const Kernels<T>& kernels, const Products16* products, int64_t rows, int threads_,
            bool training_)
      : capacity(rows),
        threads(threads_),
        training(training_),
        made_for(&kernels),
        claims{Claims(threads_), Claims(threads_)},
        things{static_cast<int64_t>(program.widths.size()), static_cast<int64_t>(program.parameters.size()),
               static_cast<int64_t>(program.operations.size())} {
    values.resize(program.widths.size());
    gradients.resize(program.widths.size());
    pre.resize(program.operations.size());
    int64_t widest = 0, total = 0;
    for (int64_t width : program.widths) total += width;
    // In a large chain two memories serve all gradients in turn; small ones save waits instead.
    gradients_shared = training && program.is_native() && program.is_chain() &&
                       static_cast<double>(total) * static_cast<double>(rows) * sizeof(T) > kSharedFrom;
    for (std::size_t v = 0; v < values.size(); ++v) {
      const int made = program.producer(static_cast<int>(v));
      const bool is_view = made >= 0 && program.operations[made].kind == OperationKind::columns;
      if (is_view) {
        values[v].data = values[0].data + program.operations[made].begin;
        values[v].row = values[0].row;
      } else {
        allocate(values[v], program.widths[v]);
      }
      if (training && v != 0 && !is_view && !gradients_shared) allocate(gradients[v], program.widths[v]);
      widest = std::max(widest, program.widths[v]);
    }
    if (gradients_shared) {
      for (Block& b : turns) allocate(b, widest);
      for (std::size_t i = 0; i < program.operations.size(); ++i) {
        const int v = program.operations[i].output;
        gradients[v].data = turns[i % 2].data;
        gradients[v].row = batch_row<T>(program.widths[v]);
      }
    }
    for (std::size_t i = 0; i < pre.size(); ++i) {
      const Operation& op = program.operations[i];
      if (op.kind != OperationKind::dense) continue;
      if (training && derivative_needs_z(op.activation)) allocate(pre[i], program.widths[op.output]);
      scratch_size = std::max(scratch_size,
                              ops::dense_scratch(kernels, rows, program.widths[op.input()], program.widths[op.output]));
    }
    if (products) {
      packed.make(*products, program, rows, threads, training, gradients_shared);
      scratch_size = std::max(scratch_size, packed.scratch);
    }
    if (training && !products && threads > 1 && !gradients_shared) {
      int64_t read = 0;
      for (const Operation& op : program.operations)
        if (op.kind == OperationKind::dense) read += rows * (program.widths[op.input()] + program.widths[op.output]);
      const int64_t blocks = (rows + kRowBlock - 1) / kRowBlock, size = layout_of<T>(program.parameters).size;
      if (blocks > 1 && blocks * size <= read / 2) {
        block_size = size;
        most_blocks = blocks;
        block_sums = Buffer<T>(2 * blocks * size);
      }
    }
    scratch_size = (scratch_size + 15) / 16 * 16 + 16;
    scratch = Buffer<T>(scratch_size * threads, Pages::small);
    if (training) {
      for (int rank = 0; rank < threads; ++rank) each_rows.emplace_back(2 * rows);
      spare_row = batch_row<T>(widest);
      spare = Buffer<T>(spare_row * threads);
      const double own = static_cast<double>(rows * values[0].row) * sizeof(T) * (threads - 1);
      if (own <= kOwnInputs) {
        for (int rank = 1; rank < threads; ++rank) inputs.emplace_back(rows * values[0].row);
        packed.make_own_inputs(program, rows, threads);
      }
    }
    std::size_t inputs_of_one = 0;
    for (const Operation& op : program.operations) inputs_of_one = std::max(inputs_of_one, op.inputs.size());
    const std::size_t together = 2 * (program.operations.size() + program.outputs.size() + inputs_of_one) + 8;
    for (int rank = 0; rank < threads; ++rank) hazards.emplace_back(things.count(), static_cast<int64_t>(together));
  }

  bool fits(int64_t rows, int team, const Kernels<T>& kernels, const Products16* products) const {
    return capacity >= rows && threads >= team && made_for == &kernels && packed.made_for == products;
  }

  T* thread_scratch(int rank) { return scratch.data() + rank * scratch_size; }

  // The instance is in so many shares now. Pads between block sums, where others may have been, are not written, but
  // added.
  void arrange_blocks(int shares) {
    if (shares != block_shares) std::fill_n(block_sums.data(), block_sums.size(), T(0));
    block_shares = shares;
  }

  // Memory for what the heads' outputs, of these widths, are judged by.
  void need_targets(const std::vector<Targets>& targets, const std::vector<int64_t>& widths) {
    heads.resize(targets.size());
    for (std::size_t h = 0; h < heads.size(); ++h) {
      Judgement& j = heads[h];
      j.given = targets[h].y != nullptr;
      j.labels = targets[h].labels;
      j.weighted = targets[h].weights != nullptr;
      // Where a step is given up before all its labels are there, kernels still index with those of steps before.
      if (j.labels && (j.label.size() < capacity || targets[h].classes < j.classes))
        j.label = Buffer<int64_t>(capacity);
      if (j.labels) j.classes = targets[h].classes;
      if (j.given && !j.labels && (j.target.row < widths[h] || !j.target.data)) allocate(j.target, widths[h]);
      if (j.weighted && j.weights.size() < capacity) j.weights = Buffer<T>(capacity);
      if (j.losses.size() < 2 * capacity) j.losses = Buffer<double>(2 * capacity);
    }
  }
  void need_metrics(std::size_t metrics) {
    if (metric_values.size() < metrics) metric_values.resize(metrics);
    for (Buffer<double>& m : metric_values)
      if (m.size() < 2 * capacity) m = Buffer<double>(2 * capacity);
  }

 private:
  static constexpr double kSharedFrom = 8 << 20, kOwnInputs = 1 << 20;  // bytes
  std::vector<Buffer<T>> inputs;
  Block turns[2];
  void allocate(Block& b, int64_t width) {
    const int64_t row = batch_row<T>(width);
    if (capacity > INT64_MAX / static_cast<int64_t>(sizeof(T)) / row) throw std::bad_alloc();
    b.memory = Buffer<T>(row * capacity);
    b.data = b.memory.data();
    b.row = row;  // not before there is memory for it
  }
};

}  // namespace fp
