// A network as its Python class holds it: with the Program it was made from, and arrays in place of pointers.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "network/network.hpp"

namespace fp::bindings {

namespace py = pybind11;

// The methods check and convert what they are given, with the GIL; it is released only for what can take long.
template <class T>
class PyNetwork {
 public:
  using Part = typename Network<T>::Part;
  using Array = py::array_t<T, py::array::c_style>;

  PyNetwork();  // of nothing yet: make() comes first
  void make(const py::object& program);
  ~PyNetwork();  // large, and pybind11 has several uses for it: one copy, in the .cpp

  const py::object& program() const { return program_; }
  Network<T>& network() const { return *network_; }

  // State.
  Array get(Part part, int i);
  void set(Part part, int i, const py::array& value);
  Array get_slot(const std::string& slot, int i);
  void set_slot(const std::string& slot, int i, const py::array& value);

  // Configuration.
  void set_optimizer(const py::object& name, const std::map<std::string, double>& hyper);
  void set_trainable(const std::vector<bool>& flags);
  void set_rates(const std::vector<double>& rates);
  void set_heads(const py::object& heads);
  void set_loss(const py::object& kind, double parameter);
  void set_metrics(const py::object& metrics);

  // Logs.
  py::list get_metrics() const;

  // Runs over positions [begin, end); each returns the position reached.
  int64_t steps(bool training, const py::object& x, const py::object& y, const py::object& sample_weight,
                const py::object& rows, int64_t batch_size, int64_t begin, int64_t end, double budget);
  int64_t predict(const py::object& x, const py::object& out, int64_t begin, int64_t end, double budget);

  // The pieces of one step that read or write arrays.
  void load_batch(const py::object& x, const py::object& y, const py::object& sample_weight, const py::object& rows,
                  int64_t begin, int64_t end);
  Array get_value(int v, bool of_gradient);
  void set_value(int v, const py::array& value, bool of_gradient);

 private:
  using Shapes = std::vector<std::vector<py::ssize_t>>;

  int64_t width(int v) const { return network_->program.widths[static_cast<std::size_t>(v)]; }
  const std::vector<py::ssize_t>& shape_of(Part part, int i) const;
  // The value as an array of the network's dtype, or an error.
  Array fitting(Part part, int i, const py::array& value) const;
  void check_slot(const std::string& slot) const;
  void check_value(int v) const;

  py::object program_;
  std::unique_ptr<Network<T>> network_;
  Shapes shapes_, state_shapes_;
};

extern template class PyNetwork<float>;
extern template class PyNetwork<double>;

}  // namespace fp::bindings
