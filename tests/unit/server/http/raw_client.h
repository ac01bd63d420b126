// A blocking HTTP client that hides nothing: sends bytes, reads bytes.
#pragma once

#include <cstring>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include <arpa/inet.h>
#include <fcntl.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

namespace chorale::server {

struct RawResponse {
  int status = 0;
  std::map<std::string, std::string> headers;
  std::string body;                          // chunks joined
  std::vector<std::string> chunks;           // as framed
  std::vector<std::string> events() const {  // payloads of server-sent events
    std::vector<std::string> out;
    size_t at = 0;
    while (at < body.size()) {
      const size_t end = body.find("\n\n", at);
      if (end == std::string::npos || body.compare(at, 6, "data: ") != 0) {
        ADD_FAILURE() << "bad event framing at " << at;
        break;
      }
      out.push_back(body.substr(at + 6, end - at - 6));
      at = end + 2;
    }
    return out;
  }
};

class RawClient {
 public:
  // receive_buffer > 0: a small window, so that a client that does not read is noticed soon.
  explicit RawClient(int port, int receive_buffer = 0) : fd_(::socket(AF_INET, SOCK_STREAM, 0)) {
    if (receive_buffer > 0) ::setsockopt(fd_, SOL_SOCKET, SO_RCVBUF, &receive_buffer, sizeof receive_buffer);
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_port = htons(static_cast<uint16_t>(port));
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    connected_ = ::connect(fd_, reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0;
  }
  ~RawClient() { close(); }
  RawClient(const RawClient&) = delete;
  RawClient& operator=(const RawClient&) = delete;

  bool connected() const { return connected_; }

  bool send(std::string_view bytes) const {
    while (!bytes.empty()) {
      const ssize_t n = ::send(fd_, bytes.data(), bytes.size(), MSG_NOSIGNAL);
      if (n <= 0) return false;
      bytes.remove_prefix(static_cast<size_t>(n));
    }
    return true;
  }

  bool post(std::string_view path, std::string_view body, std::string_view headers = "") const {
    return send("POST " + std::string(path) + " HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n" +
                std::string(headers) + "Content-Length: " + std::to_string(body.size()) + "\r\n\r\n" +
                std::string(body));
  }
  bool get(std::string_view path, std::string_view method = "GET") const {
    return send(std::string(method) + " " + std::string(path) + " HTTP/1.1\r\nHost: x\r\n\r\n");
  }

  void close() {
    if (fd_ >= 0) ::close(fd_);
    fd_ = -1;
  }
  // Ends the connection with RST.
  void reset() {
    const linger abort{1, 0};
    ::setsockopt(fd_, SOL_SOCKET, SO_LINGER, &abort, sizeof abort);
    close();
  }

  // What there is to read now, at most that much of it; it is lost.
  void read_some(size_t bytes) const {
    std::string ignored(bytes, 0);
    ::recv(fd_, ignored.data(), bytes, MSG_DONTWAIT);
  }

  // Reads until `marker` was seen, the peer closed, or a minute passed; what was read stays for the next
  // call.
  bool read_until(std::string_view marker) {
    while (input_.find(marker) == std::string::npos) {
      if (!fill()) return false;
    }
    return true;
  }
  // As many characters as stand behind the marker, where it comes first; all of it stays for the next call.
  std::string see_after(std::string_view marker, size_t size) {
    if (!read_until(marker)) return "";
    const size_t at = input_.find(marker) + marker.size();
    while (input_.size() < at + size && fill()) {
    }
    return input_.substr(at, size);
  }
  // Whether the peer has closed, within the time.
  bool closed_within(int milliseconds) {
    for (;;) {
      pollfd ready{fd_, POLLIN, 0};
      if (::poll(&ready, 1, milliseconds) <= 0) return false;
      char bytes[4096];
      const ssize_t n = ::recv(fd_, bytes, sizeof bytes, 0);
      if (n <= 0) return true;
    }
  }

  // Reads one response; `no_body` for answers to HEAD.
  RawResponse read_response(bool no_body = false) {
    RawResponse out;
    if (!read_until("\r\n\r\n")) {
      ADD_FAILURE() << "no response header; got: " << input_.substr(0, 200);
      return out;
    }
    const std::string head = take(input_.find("\r\n\r\n") + 4);
    out.status = std::stoi(head.substr(9, 3));
    for (size_t at = head.find("\r\n") + 2; at + 2 < head.size();) {
      const size_t end = head.find("\r\n", at);
      const size_t colon = head.find(": ", at);
      if (colon != std::string::npos && colon < end) {
        out.headers[head.substr(at, colon - at)] = head.substr(colon + 2, end - colon - 2);
      }
      at = end + 2;
    }
    if (no_body || out.status == 100 || out.status == 204) return out;
    if (out.headers.contains("Transfer-Encoding")) {
      read_chunks(out);
    } else if (out.headers.contains("Content-Length")) {
      const size_t size = std::stoul(out.headers["Content-Length"]);
      while (input_.size() < size && fill()) {
      }
      out.body = take(size);
    } else {
      while (fill()) {
      }
      out.body = take(input_.size());
    }
    return out;
  }

 private:
  void read_chunks(RawResponse& out) {
    for (;;) {
      if (!read_until("\r\n")) {
        ADD_FAILURE() << "chunked body was cut off";
        return;
      }
      const std::string line = take(input_.find("\r\n") + 2);
      const size_t size = std::stoul(line, nullptr, 16);
      while (input_.size() < size + 2 && fill()) {
      }
      const std::string chunk = take(size);
      EXPECT_EQ(take(2), "\r\n");
      if (size == 0) return;
      out.body += chunk;
      out.chunks.push_back(chunk);
    }
  }

  bool fill() {
    pollfd ready{fd_, POLLIN, 0};
    if (::poll(&ready, 1, 60'000) <= 0) return false;
    char bytes[16384];
    const ssize_t n = ::recv(fd_, bytes, sizeof bytes, 0);
    if (n <= 0) return false;
    input_.append(bytes, static_cast<size_t>(n));
    return true;
  }
  std::string take(size_t size) {
    std::string out = input_.substr(0, size);
    input_.erase(0, size);
    return out;
  }

  int fd_;
  bool connected_ = false;
  std::string input_;
};

}  // namespace chorale::server
