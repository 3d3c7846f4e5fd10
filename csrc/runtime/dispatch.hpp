// Which instruction set runs: chosen once from what was built, what CPU and operating system support, and
// FASTPERCEPTRON_ISA. An unsupported name is an error, never an illegal instruction.
#pragma once

#include <string>
#include <vector>

#include "kernels/table.hpp"

namespace fp {

// The table in use. Throws std::runtime_error with the reason when FASTPERCEPTRON_ISA names a set that is not
// built or not usable here; the choice is made on the first call and kept.
const Table& table();
// Forces another table from now on (tests, show_config); same errors.
void set_instruction_set(const std::string& name);  // "auto" or a table's name
std::vector<std::string> instruction_sets_built();
std::vector<std::string> instruction_sets_usable();
std::string instruction_set_reason();  // "best usable", "FASTPERCEPTRON_ISA", "set_instruction_set"

template <class T>
const Kernels<T>& kernels();
template <>
inline const Kernels<float>& kernels<float>() {
  return table().f32;
}
template <>
inline const Kernels<double>& kernels<double>() {
  return table().f64;
}

}  // namespace fp
