// Which instruction set runs: chosen once from what was built, what CPU and operating system support, and
// FASTPERCEPTRON_ISA. An unsupported name is an error, never an illegal instruction.
//
// Products of bfloat16 operands have paths of their own, amx and avx512_bf16, which go with the avx512 table. Naming
// one of them chooses both; naming a table leaves the products to that table.
#pragma once

#include <string>
#include <vector>

#include "kernels/bf16.hpp"
#include "kernels/table.hpp"

namespace fp {

// The table in use. Throws std::runtime_error with the reason when FASTPERCEPTRON_ISA names a set that is not
// built or not usable here; the choice is made on the first call and kept.
const Table& table();
// The products of bfloat16 operands in use; same errors. Asks the system for AMX's registers when they are wanted.
const Products16& products16();
// Forces others from now on, for tests; same errors.
void set_instruction_set(const std::string& name);  // "auto", a table's or a path's name
std::vector<std::string> instruction_sets_built();
std::vector<std::string> instruction_sets_usable();
std::string instruction_set_reason();  // "best usable", "FASTPERCEPTRON_ISA", "set_instruction_set"
std::vector<std::string> bfloat16_paths_built();
std::vector<std::string> bfloat16_paths_usable();
// The same, or "best usable; the system refused the registers of amx".
std::string bfloat16_path_reason();

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

// The type of the operands of dense products and what computes them, as in "bfloat16 avx512_bf16". products: of mixed
// precision, or nullptr.
template <class T>
std::string path_name(const Products16* products) {
  if (products) return std::string("bfloat16 ") + products->name;
  return std::string(sizeof(T) == 4 ? "float32 " : "float64 ") + table().name;
}

}  // namespace fp
