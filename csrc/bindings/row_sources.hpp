// Arrays that Python hands over to train on or to predict: row sources, targets, sample weights. Needs the GIL.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <cstdint>
#include <vector>

#include "network/network.hpp"

namespace fp::bindings {

namespace py = pybind11;

// Raises DTypeError where the network cannot read the array's dtype.
Element element_of(const py::array& a, const char* what);

// The rows of a run: views of the call's arrays, which it keeps alive.
class GivenRows {
 public:
  // Inputs alone: an array, or a tuple or list of them, and the numbers of the rows (None: all of them in order).
  GivenRows(const Program& program, const py::object& x, const py::object& rows, int64_t begin, int64_t end);
  // And what each head is judged by, in a configuration of the network.
  GivenRows(const Program& program, const std::vector<Head>& heads, const std::vector<Metric>& metrics,
            uint64_t configuration, const py::object& x, const py::object& y, const py::object& sample_weight,
            const py::object& rows, int64_t begin, int64_t end);
  GivenRows(const GivenRows&) = delete;

  const Sources& sources() const { return sources_; }
  // Raises ShapeError where a loss or a metric has no targets.
  void need_targets(const std::vector<Head>& heads, const std::vector<Metric>& metrics) const;

 private:
  void read_inputs(const Program& program, const py::object& x);
  void read_row_numbers(const py::object& rows);
  void check_rows(const char* what, const DenseSource& source) const;
  // The object as an array, which is kept.
  py::array kept(const py::object& given, const char* what);

  std::vector<py::array> arrays_;
  std::vector<DenseSource> parts_, targets_, weights_;
  SideBySide together_;
  Sources sources_;
  int64_t positions_ = 0;
};

}  // namespace fp::bindings
