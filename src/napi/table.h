#pragma once
// The tensors that one JavaScript environment holds: integer handles to them, and weak references to the JavaScript
// objects that wear the handles, so that the dead can be swept out of a synchronous loop, where finalizers never run.
#include <napi.h>

#include <cstdint>
#include <vector>

#include "tensor.h"

class Table {
 public:
  explicit Table(napi_env env) : env(env) {}

  double add(Tensor&& t);                         // a new handle
  const Tensor& at(double handle) const;          // throws if it is not a live handle of this environment
  void attach(double handle, napi_value object);  // the handle dies with the object
  void release(double handle);                    // no error if it is dead already
  void swap(double a, double b);                  // exchanges the tensors behind two handles
  size_t sweep();                                 // frees handles whose objects are gone; how many
  void collectIfDue();                            // sweeps, and runs the collector, when much has been allocated since
  void collectAll();                              // all that can be done before memory is declared exhausted
  void setCollector(napi_value fn);               // fn(full: boolean) runs the JavaScript garbage collector
  size_t live() const { return used; }
  void clear();

 private:
  struct Entry {
    Tensor tensor;
    napi_ref object = nullptr;
    uint32_t generation = 1;
    bool alive = false;
  };
  napi_env env;
  napi_ref collector = nullptr;
  std::vector<Entry> entries;
  std::vector<uint32_t> unused;
  size_t used = 0, attached = 0;  // live handles; attachments since the last sweep
  size_t sweepDue = 4096;         // attachments at which the next sweep comes
  size_t bytesDue = 512u << 20;   // bytes in use at which the collector runs

  uint32_t indexOf(double handle) const;  // or npos
  void drop(uint32_t index);
  void collect(bool full);
};
