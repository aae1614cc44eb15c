#pragma once
// A file in the address space, for reading. What is read of it is copied out, so that a file that is cut short or whose
// disk fails ends in an answer, not in a signal.
#include <cstddef>

class MappedFile {
 public:
  // Maps all that the open file holds now; the descriptor may be closed after. Throws Error with the system's reason.
  explicit MappedFile(int descriptor);
  ~MappedFile() { close(); }
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;

  // Copies `count` bytes from `offset` on. False when the file has become shorter than that.
  bool read(size_t offset, void* to, size_t count) const;
  // Unmaps; the second time does nothing.
  void close();

 private:
  int file;  // our own, to ask how long the file still is; -1 when closed
  char* start = nullptr;
  size_t length = 0;
};
