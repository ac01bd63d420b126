#include "base/control_group.h"

#include <cstdlib>
#include <fstream>
#include <random>
#include <string>

#include <gtest/gtest.h>

#include "base/memory_info.h"
#include "base/thread_pool.h"

namespace chorale {
namespace {

namespace fs = std::filesystem;

constexpr uint64_t kMb = 1'000'000;

// A root folder with the files that the kernel would show.
class ControlGroupTest : public testing::Test {
 protected:
  ControlGroupTest() {
    std::string name = (fs::temp_directory_path() / "chorale-cgroup-XXXXXX").string();
    root_ = mkdtemp(name.data());
  }
  ~ControlGroupTest() override { fs::remove_all(root_); }

  void write(const fs::path& path, const std::string& text) const {
    fs::create_directories((root_ / path).parent_path());
    std::ofstream(root_ / path) << text;
  }
  // Version 2, mounted as in a usual system.
  void mount_v2(const std::string& own_group, const std::string& mount_root = "/") const {
    write("proc/self/cgroup", "0::" + own_group + "\n");
    write("proc/self/mountinfo",
          "25 30 0:23 / /proc rw,relatime - proc proc rw\n"
          "35 30 0:30 " +
              mount_root + " /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate\n");
  }
  void memory_v2(const std::string& group, const std::string& max, uint64_t current,
                 uint64_t inactive_file = 0) const {
    const fs::path folder = "sys/fs/cgroup" + group;
    write(folder / "memory.max", max + "\n");
    write(folder / "memory.current", std::to_string(current) + "\n");
    write(folder / "memory.stat", "anon 5\nfile 77\ninactive_file " + std::to_string(inactive_file) +
                                      "\nactive_file 0\nslab_reclaimable 0\n");
  }
  ControlGroupLimits limits() const { return control_group_limits(root_); }

  fs::path root_;
};

TEST_F(ControlGroupTest, NothingToReadSetsNoLimit) {
  EXPECT_FALSE(limits().memory_left);
  EXPECT_FALSE(limits().processors);
  mount_v2("/a");
  EXPECT_FALSE(limits().memory_left);
  write("proc/self/cgroup", "nonsense\n:\n0:\n");
  write("proc/self/mountinfo", "\n1 2 3\n36 35 98:0 / /mnt rw - cgroup2\n");
  EXPECT_FALSE(limits().memory_left);
  EXPECT_FALSE(limits().processors);
}

TEST_F(ControlGroupTest, ReclaimablePagesOfFilesAreFree) {
  mount_v2("/");
  memory_v2("", "1073741824", 1'043'741'824, 900 * kMb);
  EXPECT_EQ(limits().memory_left, 1'073'741'824u - 143'741'824u);
  memory_v2("", "max", 1'043'741'824);
  EXPECT_FALSE(limits().memory_left);
  memory_v2("", "1000", 2000);
  EXPECT_EQ(limits().memory_left, 0u);
  memory_v2("", "1000", 200, 5000);  // the two files are read one after the other
  EXPECT_EQ(limits().memory_left, 1000u);
}

TEST_F(ControlGroupTest, TheTightestOfTheOwnGroupAndAllAboveCounts) {
  const std::string own = "/system.slice/docker.scope/inner";
  for (const std::string& tight :
       {own, std::string("/system.slice/docker.scope"), std::string("/system.slice")}) {
    mount_v2(own);
    for (const char* group :
         {"/system.slice/docker.scope/inner", "/system.slice/docker.scope", "/system.slice"})
      memory_v2(group, std::to_string(group == tight ? 300 * kMb : 900 * kMb), 100 * kMb);
    memory_v2("/other", "5", 1);
    EXPECT_EQ(limits().memory_left, 200 * kMb) << tight;
  }
  write("sys/fs/cgroup/system.slice/memory.high", "150000000\n");
  EXPECT_EQ(limits().memory_left, 50 * kMb);
}

TEST_F(ControlGroupTest, AContainerSeesItsOwnGroupAsTheTop) {
  mount_v2("/kubepods/pod1/c1", "/kubepods/pod1");
  memory_v2("/c1", "400000000", 100 * kMb);
  EXPECT_EQ(limits().memory_left, 300 * kMb);
  mount_v2("/../../elsewhere", "/");  // what a namespace tells of groups outside
  memory_v2("", "250000000", 100 * kMb);
  EXPECT_EQ(limits().memory_left, 150 * kMb);
  mount_v2("/kubepods/pod2", "/kubepods/pod1");
  EXPECT_EQ(limits().memory_left, 150 * kMb);
}

TEST_F(ControlGroupTest, QuotasOfProcessors) {
  mount_v2("/a/b");
  write("sys/fs/cgroup/a/b/cpu.max", "max 100000\n");
  EXPECT_FALSE(limits().processors);
  write("sys/fs/cgroup/a/cpu.max", "350000 100000\n");
  EXPECT_EQ(limits().processors, 3.5);
  write("sys/fs/cgroup/a/b/cpu.max", "50000 100000\n");
  EXPECT_EQ(limits().processors, 0.5);
}

TEST_F(ControlGroupTest, VersionOneHasAHierarchyForEachController) {
  write("proc/self/cgroup",
        "12:cpuset:/\n4:memory:/job 7/step\n3:cpu,cpuacct:/job\n1:name=systemd:/x\n0::/\n");
  write("proc/self/mountinfo",
        "40 30 0:31 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n"
        "41 30 0:32 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n"
        "42 30 0:33 / /mnt/with\\040space rw - cgroup2 none rw\n");
  const fs::path memory = "sys/fs/cgroup/memory", cpu = "sys/fs/cgroup/cpu,cpuacct";
  for (const fs::path& group : {memory, memory / "job 7", memory / "job 7/step"}) {
    write(group / "memory.limit_in_bytes", "9223372036854771712\n");
    write(group / "memory.usage_in_bytes", "600000000\n");
  }
  write(memory / "job 7/memory.limit_in_bytes", "1000000000\n");
  write(memory / "job 7/memory.stat",
        "inactive_file 1\ntotal_inactive_file 100000000\ntotal_active_file 7\n");
  write(cpu / "cpu.cfs_quota_us", "-1\n");
  write(cpu / "cpu.cfs_period_us", "100000\n");
  EXPECT_EQ(limits().memory_left, 500'000'007u);
  EXPECT_FALSE(limits().processors);
  write(cpu / "job/cpu.cfs_quota_us", "400000\n");
  write(cpu / "job/cpu.cfs_period_us", "100000\n");
  EXPECT_EQ(limits().processors, 4.0);
  write("mnt/with space/memory.max", "700\n");
  write("mnt/with space/memory.current", "300\n");
  EXPECT_EQ(limits().memory_left, 400u);
}

TEST_F(ControlGroupTest, RandomHierarchiesGiveTheSmallest) {
  std::mt19937 random(7);
  for (int round = 0; round < 100; ++round) {
    const int depth = static_cast<int>(random() % 6);
    std::string own = "/";
    std::vector<std::string> groups{""};
    for (int i = 0; i < depth; ++i) {
      own.append(i == 0 ? "g" : "/g").append(std::to_string(random() % 1000));
      groups.push_back(own);
    }
    mount_v2(own);
    std::optional<uint64_t> expected;
    for (const std::string& group : groups) {
      fs::remove_all(root_ / ("sys/fs/cgroup" + group));
    }
    for (const std::string& group : groups) {
      if (random() % 3 == 0) continue;
      const uint64_t limit = random() % 1000 + 1000, used = random() % 2500, file = random() % 500;
      memory_v2(group, std::to_string(limit), used, file);
      const uint64_t held = used - std::min(used, file);
      const uint64_t left = limit - std::min(limit, held);
      expected = expected ? std::min(*expected, left) : left;
    }
    EXPECT_EQ(limits().memory_left, expected) << own;
  }
}

TEST(ThisProcessTest, HasAtLeastOneCoreAndNotMoreMemoryThanItsGroups) {
  EXPECT_GE(available_cores(), 1);
  const ControlGroupLimits limits = control_group_limits();
  EXPECT_LE(available_cores(), std::max(1.0, limits.processors.value_or(256)));
  EXPECT_GT(available_memory(), 0u);
}

}  // namespace
}  // namespace chorale
