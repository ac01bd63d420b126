#include "base/service_notify.h"

#include <cstdlib>
#include <string>

#include <fmt/format.h>
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

namespace chorale {
namespace {

using std::chrono::milliseconds;

class ServiceNotify : public ::testing::Test {
 protected:
  ~ServiceNotify() override {
    for (const char* name : {"NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"}) unsetenv(name);
  }
};

TEST_F(ServiceNotify, SendsToTheSocketThatIsNamed) {
  EXPECT_FALSE(notify_service("READY=1"));
  const std::string name = fmt::format("chorale-test-{}", getpid());
  const int fd = socket(AF_UNIX, SOCK_DGRAM, 0);
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  name.copy(address.sun_path + 1, name.size());
  const auto size = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + 1 + name.size());
  ASSERT_EQ(bind(fd, reinterpret_cast<const sockaddr*>(&address), size), 0);
  setenv("NOTIFY_SOCKET", ("@" + name).c_str(), 1);
  EXPECT_TRUE(notify_service("READY=1"));
  char text[64] = {};
  EXPECT_EQ(recv(fd, text, sizeof(text), 0), 7);
  EXPECT_STREQ(text, "READY=1");
  close(fd);
  EXPECT_FALSE(notify_service("READY=1")) << "nobody listens";
  setenv("NOTIFY_SOCKET", ("/" + std::string(200, 'x')).c_str(), 1);
  EXPECT_FALSE(notify_service("READY=1")) << "too long";
  setenv("NOTIFY_SOCKET", "relative", 1);
  EXPECT_FALSE(notify_service("READY=1"));
}

TEST_F(ServiceNotify, WatchdogIsForThisProcess) {
  setenv("NOTIFY_SOCKET", "/run/x", 1);
  EXPECT_FALSE(service_watchdog());
  setenv("WATCHDOG_USEC", "30000000", 1);
  EXPECT_EQ(service_watchdog(), std::chrono::seconds(30));
  setenv("WATCHDOG_PID", std::to_string(getpid()).c_str(), 1);
  EXPECT_EQ(service_watchdog(), std::chrono::seconds(30));
  setenv("WATCHDOG_PID", "1", 1);
  EXPECT_FALSE(service_watchdog());
  unsetenv("WATCHDOG_PID");
  for (const char* text : {"0", "-5", "", "1s"}) {
    setenv("WATCHDOG_USEC", text, 1);
    EXPECT_FALSE(service_watchdog()) << text;
  }
}

TEST(ProgressWatch, WorkThatStandsStillForTheLimitDoesNotGoOn) {
  const ProgressWatch::Time start{};
  ProgressWatch watch(milliseconds(100), start);
  const auto at = [&](int ms) { return start + milliseconds(ms); };
  EXPECT_TRUE(watch.goes_on(false, 0, at(1000))) << "idle";
  EXPECT_TRUE(watch.goes_on(true, 0, at(1050)));
  EXPECT_TRUE(watch.goes_on(true, 0, at(1099)));
  EXPECT_FALSE(watch.goes_on(true, 0, at(1100)));
  EXPECT_TRUE(watch.goes_on(true, 1, at(1500))) << "a step was done after all";
  EXPECT_TRUE(watch.goes_on(true, 1, at(1599)));
  EXPECT_FALSE(watch.goes_on(true, 1, at(1601)));
  EXPECT_TRUE(watch.goes_on(false, 1, at(2000)));
}

}  // namespace
}  // namespace chorale
