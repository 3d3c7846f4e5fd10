// How many CPUs this process may use: the affinity mask and the CPU quota of its control groups.
#pragma once

#include <string>

namespace fp {

// CPUs in the affinity mask of the process; at least 1.
int affinity_cpus();

// The smallest CPU quota of the process's control group (v1 or v2) and all its ancestors, rounded up to whole
// CPUs; 0 when there is none or it cannot be read. root is put before every path (tests).
int cgroup_cpus(const std::string& root = "");

}  // namespace fp
