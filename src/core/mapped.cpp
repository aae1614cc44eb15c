#include "core/mapped.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "core/check.h"

namespace {

// The kernel copies, because a page that is gone is EFAULT to it and SIGBUS to us. Sandboxes that refuse the call (old
// Docker profiles) get the same bytes through the descriptor.
ssize_t copyPages(int file, const char* start, size_t offset, char* to, size_t count) {
  count = std::min(count, (size_t)1 << 30);  // a call copies less than 2 GiB
  iovec local{to, count}, remote{(void*)(start + offset), count};
  ssize_t copied = process_vm_readv(getpid(), &local, 1, &remote, 1, 0);
  if (copied < 0 && (errno == EPERM || errno == ENOSYS)) copied = pread(file, to, count, (off_t)offset);
  return copied;
}

size_t lengthOf(int file) {
  struct stat s;
  check(fstat(file, &s) == 0, strerror(errno));
  return (size_t)s.st_size;
}

}  // namespace

MappedFile::MappedFile(int descriptor) : file(fcntl(descriptor, F_DUPFD_CLOEXEC, 0)) {
  check(file >= 0, strerror(errno));
  try {
    length = lengthOf(file);
    void* at = length ? mmap(nullptr, length, PROT_READ, MAP_SHARED, file, 0) : nullptr;
    check(at != MAP_FAILED, strerror(errno));
    start = (char*)at;
  } catch (...) {
    ::close(file);
    throw;
  }
}

void MappedFile::close() {
  if (start) munmap(start, length);
  if (file >= 0) ::close(file);
  start = nullptr, file = -1;
}

bool MappedFile::read(size_t offset, void* to, size_t count) const {
  check(file >= 0, "the file is closed");
  if (offset > length || count > length - offset) return false;
  size_t got = 0;
  int reason = 0;
  while (got < count && !reason) {
    ssize_t copied = copyPages(file, start, offset + got, (char*)to + got, count - got);
    if (copied > 0)
      got += (size_t)copied;
    else
      reason = copied < 0 && errno != EFAULT ? errno : EIO;
  }
  // Asked after the copy: the last page of a file that was cut within it reads on, as zeros.
  if (lengthOf(file) < offset + count) return false;
  check(got == count, strerror(reason));
  return true;
}
