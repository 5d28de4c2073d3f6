// Layer: platform. What this library asks of the operating system beyond C++17: shared libraries, forks, the
// end of a process. The one room that includes headers of POSIX or Windows; os.cc has both.
#ifndef MYLINEAR_PLATFORM_OS_H_
#define MYLINEAR_PLATFORM_OS_H_

#include <string>

namespace mylinear::platform {

// What the file name of a shared library ends in: ".so", ".dylib" or ".dll".
extern const char kLibraryEnding[];

// Whether there is a file or a folder at `path`.
bool exists(const std::string& path);

// Returns the folder of the shared library or program that has `address`, with its last slash; empty if the
// loader does not say.
std::string folder_of(const void* address);

// Opens a shared library; it is never closed, and opening it again gives the same handle. Null if it cannot
// be opened, and then `reason` says why.
void* open_library(const std::string& path, std::string* reason);

// Returns the address of an exported function; null if the library has none of that name, and then `reason`
// says so.
void* find_function(void* library, const char* name, std::string* reason);

// Has `handler` called in the child of every fork from now on. Does nothing where processes do not fork.
void call_in_children(void (*handler)());

// Ends the process with this status, at once: no destructors, no handlers, no buffers written.
[[noreturn]] void end_process(int status);

}  // namespace mylinear::platform

#endif  // MYLINEAR_PLATFORM_OS_H_
