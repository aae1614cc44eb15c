#include "napi/table.h"

#include <algorithm>

#include "core/memory.h"
#include "kernels.h"

namespace {
constexpr uint32_t npos = ~0u;
constexpr double indexLimit = 16777216;  // a handle is generation * 2^24 + index: an integer below 2^53
}  // namespace

uint32_t Table::indexOf(double handle) const {
  if (!(handle >= 0 && handle < 9007199254740992.0)) return npos;
  uint64_t h = (uint64_t)handle;
  uint32_t index = (uint32_t)(h & 0xffffff), generation = (uint32_t)(h >> 24);
  if (index >= entries.size() || !entries[index].alive || entries[index].generation != generation) return npos;
  return index;
}

double Table::add(Tensor&& t) {
  uint32_t index;
  if (unused.empty()) {
    check(entries.size() < indexLimit, "there are ", entries.size(), " live tensors, which is the most there can be");
    index = (uint32_t)entries.size();
    entries.emplace_back();
  } else {
    index = unused.back();
    unused.pop_back();
  }
  Entry& e = entries[index];
  e.tensor = std::move(t);
  e.alive = true;
  used++;
  return (double)e.generation * indexLimit + index;
}

const Tensor& Table::at(double handle) const {
  uint32_t index = indexOf(handle);
  if (index == npos) throw Error("the tensor has been disposed", "ERR_DISPOSED");
  return entries[index].tensor;
}

void Table::attach(double handle, napi_value object) {
  uint32_t index = indexOf(handle);
  if (index == npos) return;
  Entry& e = entries[index];
  if (e.object) napi_delete_reference(env, e.object);
  napi_create_reference(env, object, 0, &e.object);
  attached++;
}

void Table::drop(uint32_t index) {
  Entry& e = entries[index];
  if (e.object) napi_delete_reference(env, e.object);
  e.object = nullptr;
  e.tensor = Tensor();
  e.alive = false;
  e.generation = e.generation >= 0x1fffffff ? 1 : e.generation + 1;
  unused.push_back(index);
  used--;
}

void Table::release(double handle) {
  uint32_t index = indexOf(handle);
  if (index != npos) drop(index);
}

void Table::swap(double a, double b) {
  at(a), at(b);
  std::swap(entries[indexOf(a)].tensor, entries[indexOf(b)].tensor);
}

size_t Table::sweep() {
  size_t before = used;
  Napi::HandleScope scope(env);
  for (uint32_t i = 0; i < entries.size(); i++) {
    Entry& e = entries[i];
    if (!e.alive || !e.object) continue;
    napi_handle_scope inner;
    napi_open_handle_scope(env, &inner);
    napi_value object = nullptr;
    napi_get_reference_value(env, e.object, &object);
    napi_close_handle_scope(env, inner);
    if (!object) drop(i);
  }
  attached = 0;
  return before - used;
}

void Table::setCollector(napi_value fn) { napi_create_reference(env, fn, 1, &collector); }

void Table::collect(bool full) {
  if (!collector) return;
  Napi::HandleScope scope(env);
  napi_value fn = nullptr, undefined, flag, result;
  napi_get_reference_value(env, collector, &fn);
  napi_get_undefined(env, &undefined);
  napi_get_boolean(env, full, &flag);
  napi_call_function(env, undefined, fn, 1, &flag, &result);
}

void Table::collectIfDue() {
  auto bytes = [] { return memoryStatistics(0).inUse + memoryStatistics(1).inUse; };
  size_t inUse = bytes();
  if (inUse >= bytesDue) {
    // A young collection frees what was dropped lately. If that is little, the growth is either old garbage or real:
    // one full collection tells, and the mark moves up so that real growth is not asked about again.
    collect(false);
    sweep();
    if (bytes() > inUse - inUse / 4) {
      collect(true);
      sweep();
    }
    bytesDue = std::max<size_t>(512u << 20, bytes() * 3 / 2);
  } else if (attached >= sweepDue) {
    collect(false);
    sweep();
    sweepDue = std::max<size_t>(4096, used / 2);
  }
}

void Table::collectAll() {
  for (auto* backend : backends()) backend->trim();
  sweep();
  collect(false);
  sweep();
  collect(true);
  sweep();
  for (auto* backend : backends()) backend->trim();
}

void Table::clear() {
  for (uint32_t i = 0; i < entries.size(); i++)
    if (entries[i].alive) drop(i);
}
