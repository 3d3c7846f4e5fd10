// Threads that help each other with large products: on a machine whose cores are not alike, or have other things to do,
// all would wait for the slowest one otherwise.
#include <algorithm>

#include "network/run.hpp"
#include "network/worth.hpp"

namespace fp {

namespace {

// Arithmetic per vector lane: of a thread in a dense layer's product, on average, from where on waiting for all before
// each operation costs a hundredth of the time at most; and the least that one thread takes over from another.
constexpr double kFlopForHelp = 2.5e6, kFlopPerClaim = 5e5;
// A piece of a weights' gradient packs for itself what all its rows are multiplied by.
constexpr int64_t kRowsPerClaim = 64;

}  // namespace

template <class T>
bool Run<T>::pays_to_help(int size) const {
  int64_t products = 0;
  for (const Operation& op : program.operations) products += op.kind == OperationKind::dense;
  return size > 1 && forward_flop(program, n) > kFlopForHelp * static_cast<double>(products * kernels.lanes * size);
}

template <class T>
void Run<T>::offer(const Team& team, const Work& work) {
  if (!helping) return;
  const Range rows = work.rows_of(team.rank), cols = work.cols_of(team.rank);
  // Whole panels of columns.
  const int64_t origin = work.in_shares && !work.gives_rows ? cols.begin : 0;
  const int64_t grain = work.gives_rows ? kLine<T> : 3 * kernels.lanes;
  const int64_t least = work.gives_rows ? kRowsPerClaim : grain, across = work.gives_rows ? cols.size() : rows.size();
  const double flop = 2.0 * static_cast<double>(std::max<int64_t>(work.depth * across, 1));
  const auto enough = static_cast<int64_t>(kFlopPerClaim * static_cast<double>(kernels.lanes) / flop);
  ++offers;
  space.claims[offers % 2].give(team.rank, work.gives_rows ? rows : cols,
                                {grain, std::max(least, enough), INT64_MAX, origin});
}

template bool Run<float>::pays_to_help(int) const;
template bool Run<double>::pays_to_help(int) const;
template void Run<float>::offer(const Team&, const Work&);
template void Run<double>::offer(const Team&, const Work&);

}  // namespace fp
