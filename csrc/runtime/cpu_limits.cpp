#include "runtime/cpu_limits.hpp"

#include <algorithm>
#include <cmath>
#include <fstream>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

#if defined(_WIN32)
#define NOMINMAX
#include <windows.h>
#elif defined(__linux__)
#include <sched.h>
#endif

namespace fp {

int affinity_cpus() {
#if defined(_WIN32)
  DWORD_PTR process = 0, system = 0;
  if (GetProcessAffinityMask(GetCurrentProcess(), &process, &system) && process) {
    int n = 0;
    for (; process; process &= process - 1) ++n;
    return n;
  }
#elif defined(__linux__)
  // The kernel refuses a set smaller than its own, so grow until it fits.
  for (int cpus = 1024; cpus <= 1 << 18; cpus *= 4) {
    cpu_set_t* set = CPU_ALLOC(cpus);
    if (!set) break;
    size_t bytes = CPU_ALLOC_SIZE(cpus);
    CPU_ZERO_S(bytes, set);
    int n = sched_getaffinity(0, bytes, set) == 0 ? CPU_COUNT_S(bytes, set) : 0;
    CPU_FREE(set);
    if (n > 0) return n;
  }
#endif
  return std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
}

namespace {

std::vector<std::string> words(const std::string& line, char separator) {
  std::vector<std::string> out;
  std::stringstream stream(line);
  for (std::string word; std::getline(stream, word, separator);) out.push_back(word);
  return out;
}

bool lists(const std::string& options, const std::string& name) {
  std::vector<std::string> all = words(options, ',');
  return std::find(all.begin(), all.end(), name) != all.end();
}

std::string first_line(const std::string& path) {
  std::ifstream file(path);
  std::string line;
  std::getline(file, line);
  return line;
}

double number(const std::string& text) {
  try {
    return std::stod(text);
  } catch (const std::exception&) {
    return -1;  // "max", or nothing
  }
}

// CPUs allowed at one directory; 0 when unlimited.
double quota_at(const std::string& directory, bool unified) {
  double quota, period;
  if (unified) {
    std::vector<std::string> fields = words(first_line(directory + "/cpu.max"), ' ');
    if (fields.size() < 2) return 0;
    quota = number(fields[0]);
    period = number(fields[1]);
  } else {
    quota = number(first_line(directory + "/cpu.cfs_quota_us"));
    period = number(first_line(directory + "/cpu.cfs_period_us"));
  }
  return quota > 0 && period > 0 ? quota / period : 0;
}

// The group's path below a mount point that shows the hierarchy from `mount_root` down. A group outside it
// (a container that sees the host's names) is taken to be the mount point itself.
std::string below(const std::string& group, const std::string& mount_root) {
  if (mount_root == "/") return group;
  if (group.compare(0, mount_root.size(), mount_root) == 0 &&
      (group.size() == mount_root.size() || group[mount_root.size()] == '/'))
    return group.substr(mount_root.size());
  return "";
}

}  // namespace

int cgroup_cpus(const std::string& root) {
  try {
    std::string v1_group, v2_group;
    bool has_v1 = false, has_v2 = false;
    std::ifstream groups(root + "/proc/self/cgroup");
    for (std::string line; std::getline(groups, line);) {
      size_t first = line.find(':'), second = line.find(':', first + 1);
      if (first == std::string::npos || second == std::string::npos) continue;
      std::string controllers = line.substr(first + 1, second - first - 1), path = line.substr(second + 1);
      if (controllers.empty()) {
        v2_group = path;
        has_v2 = true;
      } else if (lists(controllers, "cpu")) {
        v1_group = path;
        has_v1 = true;
      }
    }
    double smallest = 0;
    std::ifstream mounts(root + "/proc/self/mountinfo");
    for (std::string line; std::getline(mounts, line);) {
      // id parent major:minor root mount-point options [optional...] - type source super-options
      std::vector<std::string> fields = words(line, ' ');
      auto dash = std::find(fields.begin(), fields.end(), "-");
      if (fields.size() < 6 || fields.end() - dash < 4) continue;
      bool unified = dash[1] == "cgroup2";
      if (unified ? !has_v2 : !(has_v1 && dash[1] == "cgroup" && lists(dash[3], "cpu"))) continue;
      std::string path = below(unified ? v2_group : v1_group, fields[3]);
      while (!path.empty() && path.back() == '/') path.pop_back();
      for (;;) {
        double quota = quota_at(root + fields[4] + path, unified);
        if (quota > 0 && (smallest == 0 || quota < smallest)) smallest = quota;
        size_t slash = path.rfind('/');
        if (slash == std::string::npos) break;
        path.resize(slash);
      }
    }
    return smallest > 0 ? static_cast<int>(std::min(std::ceil(smallest), 1e6)) : 0;
  } catch (const std::exception&) {
    return 0;
  }
}

}  // namespace fp
