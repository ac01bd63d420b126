#include "base/control_group.h"

#include <algorithm>
#include <fstream>
#include <map>
#include <sstream>
#include <string>
#include <string_view>
#include <vector>

namespace chorale {
namespace {

namespace fs = std::filesystem;

// A hierarchy as it is mounted here, and where in it this process is.
struct Hierarchy {
  fs::path mount_point;
  fs::path group;  // the folder of the process's own group, at or below mount_point
};

std::vector<std::string> split(std::string_view text, char separator) {
  std::vector<std::string> parts;
  std::istringstream stream{std::string(text)};
  for (std::string part; std::getline(stream, part, separator);) parts.push_back(part);
  return parts;
}

// "\040" is a space: mountinfo writes white space and backslashes in octal.
std::string unescaped(std::string_view text) {
  std::string out;
  for (size_t i = 0; i < text.size(); ++i) {
    const std::string_view digits = text.substr(i + 1, 3);
    if (text[i] == '\\' && digits.size() == 3 &&
        digits.find_first_not_of("01234567") == std::string_view::npos) {
      out += static_cast<char>((digits[0] - '0') * 64 + (digits[1] - '0') * 8 + (digits[2] - '0'));
      i += 3;
    } else {
      out += text[i];
    }
  }
  return out;
}

// The process's group by controller, "" for the one hierarchy of version 2: lines "4:memory:/a/b" and
// "0::/a/b".
std::map<std::string, std::string> groups_by_controller(const fs::path& root) {
  std::map<std::string, std::string> groups;
  std::ifstream file(root / "proc/self/cgroup");
  for (std::string line; std::getline(file, line);) {
    const size_t first = line.find(':');
    const size_t second = first == std::string::npos ? first : line.find(':', first + 1);
    if (second == std::string::npos) continue;
    const std::string path = line.substr(second + 1);
    const std::string controllers = line.substr(first + 1, second - first - 1);
    if (controllers.empty()) groups[""] = path;
    for (const std::string& controller : split(controllers, ',')) groups[controller] = path;
  }
  return groups;
}

// Where the hierarchy with `controller` is mounted ("" for version 2). A line of mountinfo (proc(5)) is
//   36 35 98:0 ROOT MOUNT_POINT OPTIONS [optional]... - TYPE SOURCE SUPER_OPTIONS
// where ROOT is the group that is seen as the mount's top: a container may see its own as that.
std::optional<Hierarchy> find_hierarchy(const fs::path& root, const std::string& controller) {
  const auto groups = groups_by_controller(root);
  const auto group = groups.find(controller);
  if (group == groups.end()) return std::nullopt;
  std::ifstream file(root / "proc/self/mountinfo");
  for (std::string line; std::getline(file, line);) {
    const std::vector<std::string> words = split(line, ' ');
    const auto dash = std::find(words.begin(), words.end(), "-");
    if (words.size() < 5 || words.end() - dash < 4) continue;
    const std::string& type = dash[1];
    if (controller.empty() ? type != "cgroup2" : type != "cgroup") continue;
    const std::vector<std::string> options = split(dash[3], ',');
    if (!controller.empty() && std::find(options.begin(), options.end(), controller) == options.end())
      continue;

    const fs::path mount_point = root / fs::path(unescaped(words[4])).relative_path();
    const fs::path below = fs::path(group->second).lexically_relative(unescaped(words[3]));
    // A group outside of what is mounted here: what is mounted is all that can be seen.
    const bool is_outside = below.empty() || *below.begin() == "..";
    return Hierarchy{mount_point, is_outside ? mount_point : (mount_point / below).lexically_normal()};
  }
  return std::nullopt;
}

// Calls visit(folder) for the process's own group and all above it, up to the mount's top.
template <typename Visit>
void visit_groups(const fs::path& root, const std::string& controller, const Visit& visit) {
  const auto hierarchy = find_hierarchy(root, controller);
  if (!hierarchy) return;
  const fs::path top = hierarchy->mount_point.lexically_normal();
  for (fs::path folder = hierarchy->group;; folder = folder.parent_path()) {
    if (!folder.has_filename()) folder = folder.parent_path();  // "/a/." becomes "/a/"
    visit(folder);
    if (folder == top || folder == folder.parent_path()) return;
  }
}

template <typename T>
std::optional<T> read_number(const fs::path& path) {
  std::ifstream file(path);
  T value = 0;
  if (file >> value) return value;
  return std::nullopt;  // absent, or "max"
}

// The sum of some lines "name value" of a memory.stat.
uint64_t sum_of(const fs::path& stat, std::initializer_list<std::string_view> names) {
  std::ifstream file(stat);
  std::string name;
  uint64_t value = 0, sum = 0;
  while (file >> name >> value)
    if (std::find(names.begin(), names.end(), name) != names.end()) sum += value;
  return sum;
}

template <typename T>
void lower(std::optional<T>& limit, fs::path& setter, T value, const fs::path& group) {
  if (limit && *limit <= value) return;
  limit = value;
  setter = group;
}

void lower_memory(ControlGroupLimits& limits, const fs::path& group, uint64_t limit, uint64_t used,
                  uint64_t reclaimable) {
  used -= std::min(used, reclaimable);
  lower(limits.memory_left, limits.memory_group, limit - std::min(limit, used), group);
}

void lower_processors(ControlGroupLimits& limits, const fs::path& group, double quota, double period) {
  if (quota > 0 && period > 0) lower(limits.processors, limits.processors_group, quota / period, group);
}

}  // namespace

ControlGroupLimits control_group_limits(const fs::path& root) {
  ControlGroupLimits limits;
  visit_groups(root, "", [&](const fs::path& group) {
    const auto used = read_number<uint64_t>(group / "memory.current");
    for (const char* name : {"memory.max", "memory.high"}) {  // beyond `high` a process is slowed to a crawl
      const auto limit = read_number<uint64_t>(group / name);
      if (!limit || !used) continue;
      lower_memory(limits, group, *limit, *used,
                   sum_of(group / "memory.stat", {"inactive_file", "active_file", "slab_reclaimable"}));
    }
    std::ifstream file(group / "cpu.max");  // "400000 100000" or "max 100000"
    double quota = 0, period = 0;
    if (file >> quota >> period) lower_processors(limits, group, quota, period);
  });
  visit_groups(root, "memory", [&](const fs::path& group) {
    const auto limit = read_number<uint64_t>(group / "memory.limit_in_bytes");
    const auto used = read_number<uint64_t>(group / "memory.usage_in_bytes");
    if (!limit || !used) return;
    lower_memory(limits, group, *limit, *used,
                 sum_of(group / "memory.stat", {"total_inactive_file", "total_active_file"}));
  });
  visit_groups(root, "cpu", [&](const fs::path& group) {
    const auto quota = read_number<double>(group / "cpu.cfs_quota_us");  // -1: none
    const auto period = read_number<double>(group / "cpu.cfs_period_us");
    if (quota && period) lower_processors(limits, group, *quota, *period);
  });
  return limits;
}

}  // namespace chorale
