// Operations that bring several values together: add, multiply, concatenate.
#include <cstring>

#include "network/run.hpp"

namespace fp {

namespace {

template <class T>
void copy_row(int64_t width, const T* from, T* to) {
  std::memcpy(to, from, sizeof(T) * static_cast<std::size_t>(width));
}

}  // namespace

template <class T>
void Run<T>::join_forward(const Operation& op, Range rows) {
  const View y = value(op.output);
  int64_t at = 0;
  for (std::size_t j = 0; j < op.inputs.size(); ++j) {
    const View x = value(op.inputs[j]);
    const int64_t width = program.widths[op.inputs[j]];
    for (int64_t i = rows.begin; i < rows.end; ++i) {
      const T* from = x.data + i * x.row;
      T* to = y.data + i * y.row + at;
      if (op.kind == OperationKind::concatenate || j == 0)
        copy_row(width, from, to);
      else if (op.kind == OperationKind::add)
        kernels.add(width, from, to);
      else
        kernels.multiply(width, from, to);
    }
    if (op.kind == OperationKind::concatenate) at += width;
  }
}

template <class T>
void Run<T>::join_backward(const Operation& op, Range rows, const std::vector<char>& accumulate, T* spare) {
  const View dy = gradient(op.output);
  int64_t at = 0;
  for (std::size_t k = 0; k < op.inputs.size(); ++k) {
    const int v = op.inputs[k];
    const int64_t width = program.widths[v];
    if (plan.wanted[v]) {
      const View dx = gradient(v);
      for (int64_t i = rows.begin; i < rows.end; ++i) {
        const T* from = dy.data + i * dy.row + at;
        if (op.kind == OperationKind::multiply) {  // dx_k = dy times all the other factors
          copy_row(width, from, spare);
          for (std::size_t j = 0; j < op.inputs.size(); ++j) {
            const View x = value(op.inputs[j]);
            if (j != k) kernels.multiply(width, x.data + i * x.row, spare);
          }
          from = spare;
        }
        if (accumulate[k])
          kernels.add(width, from, dx.data + i * dx.row);
        else
          copy_row(width, from, dx.data + i * dx.row);
      }
    }
    if (op.kind == OperationKind::concatenate) at += width;
  }
}

template void Run<float>::join_forward(const Operation&, Range);
template void Run<double>::join_forward(const Operation&, Range);
template void Run<float>::join_backward(const Operation&, Range, const std::vector<char>&, float*);
template void Run<double>::join_backward(const Operation&, Range, const std::vector<char>&, double*);

}  // namespace fp
