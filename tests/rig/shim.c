/* A disk that misbehaves, for a program that knows nothing of it: preloaded, it stands before the calls that write and
 * sync files under a folder called `journal`. What it does is the one word in the file $DISK_SHIM, read again at each call:
 *
 *   nothing  fdatasync does nothing
 *   write    fdatasync hands over what was written, and does not ask the disk to have it for good
 *   fail     writes and syncs fail with EIO
 *   sync     only syncs fail with EIO
 *   tear     a write takes half, and fails with EIO
 *   vanish   a write is taken, and is not done
 *   full     writes fail with ENOSPC
 *   readonly writes, and opening for writing, fail with EROFS
 *
 * Any other word, or no file: all is as it is without it. */

#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <unistd.h>

static int says(const char *word, const char *wanted) { return strcmp(word, wanted) == 0; }

static int is_journal(const char *path) { return strstr(path, "/journal") != NULL; }

/* The word, or none for what is not the journal's. */
static void ask(const char *path, char word[16]) {
  const char *file = getenv("DISK_SHIM");
  word[0] = 0;
  if (!file || !is_journal(path)) return;
  int fd = syscall(SYS_openat, AT_FDCWD, file, O_RDONLY | O_CLOEXEC, 0);
  if (fd < 0) return;
  ssize_t count = syscall(SYS_read, fd, word, 15);
  syscall(SYS_close, fd);
  word[count < 0 ? 0 : count] = 0;
  word[strcspn(word, "\n")] = 0;
}

static void ask_of(int fd, char word[16]) {
  char link[64], path[4096];
  snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
  ssize_t count = readlink(link, path, sizeof path - 1);
  path[count < 0 ? 0 : count] = 0;
  ask(path, word);
}

static int refuse(int error) {
  errno = error;
  return -1;
}

int fdatasync(int fd) {
  char word[16];
  ask_of(fd, word);
  if (says(word, "nothing")) return 0;
  if (says(word, "write")) {
    unsigned how = SYNC_FILE_RANGE_WAIT_BEFORE | SYNC_FILE_RANGE_WRITE | SYNC_FILE_RANGE_WAIT_AFTER;
    return sync_file_range(fd, 0, 0, how);
  }
  if (says(word, "fail") || says(word, "sync")) return refuse(EIO);
  return syscall(SYS_fdatasync, fd);
}

int fsync(int fd) {
  char word[16];
  ask_of(fd, word);
  if (says(word, "fail") || says(word, "sync")) return refuse(EIO);
  return syscall(SYS_fsync, fd);
}

ssize_t pwrite64(int fd, const void *bytes, size_t count, off64_t offset) {
  char word[16];
  ask_of(fd, word);
  if (says(word, "fail")) return refuse(EIO);
  if (says(word, "full")) return refuse(ENOSPC);
  if (says(word, "readonly")) return refuse(EROFS);
  if (says(word, "vanish")) return count;
  if (says(word, "tear")) {
    syscall(SYS_pwrite64, fd, bytes, count / 2, offset);
    return refuse(EIO);
  }
  return syscall(SYS_pwrite64, fd, bytes, count, offset);
}

ssize_t pwrite(int fd, const void *bytes, size_t count, off_t offset) { return pwrite64(fd, bytes, count, offset); }

static int open_as_told(const char *path, int flags, mode_t mode) {
  char word[16];
  ask(path, word);
  if (says(word, "readonly") && (flags & O_ACCMODE) != O_RDONLY) return refuse(EROFS);
  return syscall(SYS_openat, AT_FDCWD, path, flags, mode);
}

int open64(const char *path, int flags, ...) {
  va_list more;
  va_start(more, flags);
  mode_t mode = va_arg(more, mode_t);
  va_end(more);
  return open_as_told(path, flags | O_LARGEFILE, mode);
}

int open(const char *path, int flags, ...) {
  va_list more;
  va_start(more, flags);
  mode_t mode = va_arg(more, mode_t);
  va_end(more);
  return open_as_told(path, flags, mode);
}
