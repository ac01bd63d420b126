#include "kernels/backend.h"

#include "base/error.h"

namespace chorale::ref_device {

const Backend& backend() {
  throw Error("this build has no reference device");
}
std::unique_ptr<DeviceDriver> open() {
  throw Error("this build has no reference device");
}

}  // namespace chorale::ref_device
