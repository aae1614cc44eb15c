// The one crossing between JavaScript and C++: JavaScript values become C++ ones, results go back, exceptions turn into
// JavaScript errors.
#include <napi.h>

#include <cstring>
#include <memory>
#include <unordered_map>

#include "core/mapped.h"
#include "core/memory.h"
#include "cpu/blas.h"
#include "cpu/pool.h"
#include "cpu/stream.h"
#include "napi/completion.h"
#include "napi/errors.h"
#include "napi/table.h"
#include "ops/op.h"

namespace {

// The memory from before it was recorded that a graph uses: it stays as long as the graph.
using Retained = std::unordered_map<Buffer*, std::shared_ptr<Buffer>>;

struct Environment {
  Table table;
  Completions completions;
  double* results = nullptr;  // rows that lib/tensor.ts reads: handle, dtype, device, rank, lengths
  size_t resultRows = 0;
  std::unique_ptr<Retained> recording;  // of the graph that is being made
  uint64_t recordingSince = 0;
  std::unordered_map<Graph*, Retained> graphs;
  static constexpr size_t rowLength = 12;
  explicit Environment(Napi::Env env) : table(env), completions(env) {}
};

[[noreturn]] void throwInvalid(int i, const char* expected) {
  throw Error(text("argument ", i + 1, " should be ", expected), "ERR_INVALID");
}

// Reads the arguments of one call on demand. Raw N-API, because this is the hot path.
struct JsArguments final : Arguments {
  napi_env env;
  Environment& e;
  size_t argc = 16;
  napi_value argv[16];
  void* data = nullptr;
  mutable const Tensor* first = nullptr;  // whose device the others must be on

  JsArguments(napi_env env, napi_callback_info info, Environment& e) : env(env), e(e) {
    napi_get_cb_info(env, info, &argc, argv, nullptr, &data);
  }
  int count() const override { return (int)argc; }
  bool given(int i) const override {
    if (i >= (int)argc) return false;
    napi_valuetype type;
    napi_typeof(env, argv[i], &type);
    return type != napi_undefined && type != napi_null;
  }
  double number(int i) const override {
    double n;
    if (i >= (int)argc || napi_get_value_double(env, argv[i], &n) != napi_ok) throwInvalid(i, "a number");
    return n;
  }
  bool boolean(int i) const override {
    bool b;
    if (i >= (int)argc || napi_get_value_bool(env, argv[i], &b) != napi_ok) throwInvalid(i, "a boolean");
    return b;
  }
  std::string string(int i) const override {
    if (i >= (int)argc || !Napi::Value(env, argv[i]).IsString()) throwInvalid(i, "a string");
    return Napi::Value(env, argv[i]).As<Napi::String>();
  }
  const Tensor& tensor(int i) const override {
    double n;
    if (i >= (int)argc || napi_get_value_double(env, argv[i], &n) != napi_ok) throwInvalid(i, "a tensor");
    return used(e.table.at(n));
  }
  const Tensor& used(const Tensor& t) const {
    if (e.recording && t.buffer->serial < e.recordingSince) e.recording->emplace(t.buffer.get(), t.buffer);
    if (!first) first = &t;
    if (t.device() == first->device()) return t;
    const std::string& signature = ((const Op*)data)->signature;
    throw Error(text(signature.substr(0, signature.find('(')),
                     ": its tensors are on cpu and on cuda, but should be on one device"),
                "ERR_DEVICE");
  }
  uint32_t length(int i) const {
    uint32_t n;
    if (i >= (int)argc || napi_get_array_length(env, argv[i], &n) != napi_ok) throwInvalid(i, "an array");
    return n;
  }
  double element(int i, uint32_t at) const {
    napi_value v = nullptr;  // reading an element runs JavaScript, which a worker that is being terminated refuses
    double n;
    if (napi_get_element(env, argv[i], at, &v) != napi_ok || napi_get_value_double(env, v, &n) != napi_ok)
      throwInvalid(i, "an array of numbers");
    return n;
  }
  std::vector<Tensor> tensors(int i) const override {
    std::vector<Tensor> all(length(i));
    for (uint32_t k = 0; k < all.size(); k++) all[k] = used(e.table.at(element(i, k)));
    return all;
  }
  Shape shape(int i) const override {
    Shape s;
    for (uint32_t k = 0, n = length(i); k < n; k++) {
      double d = element(i, k);
      check(d == (double)(int64_t)d, "argument ", i + 1, " should hold integers, not ", d);
      s.push((int64_t)d);
    }
    return s;
  }
};

struct JsResults final : Results {
  napi_env env;
  Environment& e;
  napi_value value = nullptr;
  int expected = 0, filled = 0;

  JsResults(napi_env env, Environment& e) : env(env), e(e) {}
  void tensor(Tensor&& t) override {
    double* row = (size_t)filled < e.resultRows ? e.results + filled * Environment::rowLength : nullptr;
    if (row) {
      row[1] = (double)t.dtype, row[2] = (double)t.device(), row[3] = t.shape.rank;
      for (int i = 0; i < t.shape.rank; i++) row[4 + i] = (double)t.shape[i];
    }
    double number = e.table.add(std::move(t));
    if (row) row[0] = number;
    napi_value handle;
    napi_create_double(env, number, &handle);
    if (expected)
      napi_set_element(env, value, filled, handle);
    else
      value = handle;
    filled++;
  }
  void tuple(int count) override {
    expected = count;
    napi_create_array_with_length(env, count, &value);
  }
  void number(double n) override { napi_create_double(env, n, &value); }
  void boolean(bool b) override { napi_get_boolean(env, b, &value); }
  void string(const std::string& s) override { napi_create_string_utf8(env, s.data(), s.size(), &value); }
  void shape(const Shape& s) override {
    napi_create_array_with_length(env, s.rank, &value);
    for (int i = 0; i < s.rank; i++) {
      napi_value d;
      napi_create_int64(env, s[i], &d);
      napi_set_element(env, value, i, d);
    }
  }
};

void throwToJs(napi_env env, const std::exception& e) {
  Napi::HandleScope scope(env);
  napi_throw(env, errorFor(env, e));
}

napi_value callOp(napi_env env, napi_callback_info info) {
  void* instance;
  napi_get_instance_data(env, &instance);
  auto& e = *(Environment*)instance;
  try {
    JsArguments args(env, info, e);
    auto* op = (const Op*)args.data;
    e.table.collectIfDue();
    JsResults results(env, e);
    try {
      op->call(args, results);
    } catch (const OutOfMemory&) {
      e.table.collectAll();  // what an op overwrites it writes after all it allocates: it can be called again
      op->call(args, results);
    }
    return results.value;
  } catch (const std::exception& error) {
    try {
      throwToJs(env, error);
    } catch (const Napi::Error&) {
      // A worker that is being terminated takes no more errors.
    }
    return nullptr;
  }
}

// Functions of the crossing itself, not ops. Their types stand in lib/native.ts.
template <class Fn>
void define(Napi::Env env, Napi::Object exports, const char* name, Fn fn) {
  exports[name] = Napi::Function::New(
      env,
      [fn](const Napi::CallbackInfo& info) -> Napi::Value {
        try {
          return fn(info, *info.Env().GetInstanceData<Environment>());
        } catch (const Napi::Error&) {
          throw;
        } catch (const std::exception& e) {
          throwToJs(info.Env(), e);
          return info.Env().Undefined();
        }
      },
      name);
}

using Mapping = Napi::External<MappedFile>;

double handleOf(const Napi::CallbackInfo& info, int i) { return info[i].As<Napi::Number>().DoubleValue(); }

napi_value attach(napi_env env, napi_callback_info info) {
  void* instance;
  napi_get_instance_data(env, &instance);
  size_t argc = 2;
  napi_value argv[2];
  double handle;
  napi_get_cb_info(env, info, &argc, argv, nullptr, nullptr);
  napi_get_value_double(env, argv[0], &handle);
  ((Environment*)instance)->table.attach(handle, argv[1]);
  return nullptr;
}

napi_value release(napi_env env, napi_callback_info info) {
  void* instance;
  napi_get_instance_data(env, &instance);
  size_t argc = 1;
  napi_value argv[1];
  double handle;
  napi_get_cb_info(env, info, &argc, argv, nullptr, nullptr);
  if (napi_get_value_double(env, argv[0], &handle) == napi_ok) ((Environment*)instance)->table.release(handle);
  return nullptr;
}

void* bytesOf(Napi::TypedArray array, const Tensor& t, const char* what) {
  size_t wanted = (size_t)t.size() * dtypeSize(t.dtype);
  check(array.ByteLength() == wanted, what, ": the array has ", array.ByteLength(), " bytes, but a tensor of shape ",
        t.shape, " and dtype ", t.dtype, " has ", wanted);
  return (char*)array.ArrayBuffer().Data() + array.ByteOffset();
}

Napi::Object init(Napi::Env env, Napi::Object exports) {
  auto* instance = new Environment(env);
  napi_set_instance_data(env, instance, nullptr, nullptr);
  cpu::blasInit();

  auto signatures = Napi::Array::New(env);
  for (auto& [name, op] : ops()) {
    napi_value fn;
    napi_create_function(env, name.c_str(), name.size(), callOp, (void*)&op, &fn);
    exports[name] = Napi::Value(env, fn);
    signatures[signatures.Length()] = op.signature;
  }
  exports["signatures"] = signatures;

  napi_value attachFn;
  napi_create_function(env, "attach", NAPI_AUTO_LENGTH, attach, nullptr, &attachFn);
  exports["attach"] = Napi::Value(env, attachFn);
  napi_value releaseFn;
  napi_create_function(env, "release", NAPI_AUTO_LENGTH, release, nullptr, &releaseFn);
  exports["release"] = Napi::Value(env, releaseFn);
  define(env, exports, "releaseAll", [](auto& info, Environment& e) {
    auto handles = info[0].template As<Napi::Array>();
    for (uint32_t i = 0, n = handles.Length(); i < n; i++) {
      napi_value one;
      double handle;
      napi_get_element(info.Env(), handles, i, &one);
      napi_get_value_double(info.Env(), one, &handle);
      e.table.release(handle);
    }
    return info.Env().Undefined();
  });
  define(env, exports, "setResults", [](auto& info, Environment& e) {
    auto rows = info[0].template As<Napi::Float64Array>();
    Napi::Persistent(rows).SuppressDestruct();  // stays
    e.results = rows.Data();
    e.resultRows = rows.ElementLength() / Environment::rowLength;
    return info.Env().Undefined();
  });
  define(env, exports, "swap", [](auto& info, Environment& e) {
    e.table.swap(handleOf(info, 0), handleOf(info, 1));
    return info.Env().Undefined();
  });
  define(env, exports, "sweep",
         [](auto& info, Environment& e) { return Napi::Number::New(info.Env(), (double)e.table.sweep()); });
  define(env, exports, "setCollector", [](auto& info, Environment& e) {
    e.table.setCollector(info[0]);
    return info.Env().Undefined();
  });
  define(env, exports, "setErrorMaker", [](auto& info, Environment&) {
    setErrorMaker(info.Env(), info[0]);
    return info.Env().Undefined();
  });
  define(env, exports, "write", [](auto& info, Environment& e) {
    check(!e.recording, "tensor: a step that is being captured takes no values from JavaScript; make them before");
    const Tensor& t = e.table.at(handleOf(info, 0));
    check(t.contiguous(), "write: the tensor should be contiguous");
    backend(t.device()).upload(bytesOf(info[1].template As<Napi::TypedArray>(), t, "write"), t);
    return info.Env().Undefined();
  });
  define(env, exports, "read", [](auto& info, Environment& e) -> Napi::Value {
    check(!e.recording, "data(), item(): a step that is being captured has no values yet");
    Tensor t = contiguous(e.table.at(handleOf(info, 0)));
    auto array = info[1].template As<Napi::TypedArray>();
    bytesOf(array, t, "read");
    return e.completions.read(info.Env(), t, array);
  });
  define(env, exports, "readSync", [](auto& info, Environment& e) {
    check(!e.recording, "dataSync(), itemSync(): a step that is being captured has no values yet");
    Tensor t = contiguous(e.table.at(handleOf(info, 0)));
    readNow(t, bytesOf(info[1].template As<Napi::TypedArray>(), t, "readSync"));
    return info[1];
  });
  define(env, exports, "mapFile", [](auto& info, Environment&) {
    auto file = std::make_unique<MappedFile>((int)handleOf(info, 0));
    return Mapping::New(info.Env(), file.release(), [](Napi::Env, MappedFile* file) { delete file; });
  });
  define(env, exports, "readMapped", [](auto& info, Environment&) {
    auto to = info[2].template As<Napi::TypedArray>();
    char* bytes = (char*)to.ArrayBuffer().Data() + to.ByteOffset();
    auto& file = *info[0].template As<Mapping>().Data();
    return Napi::Boolean::New(info.Env(), file.read((size_t)handleOf(info, 1), bytes, to.ByteLength()));
  });
  define(env, exports, "unmapFile", [](auto& info, Environment&) {
    info[0].template As<Mapping>().Data()->close();
    return info.Env().Undefined();
  });
  define(env, exports, "memory", [](auto& info, Environment& e) {
    auto o = Napi::Object::New(info.Env());
    auto& s = memoryStatistics(handleOf(info, 0) != 0);
    o["inUse"] = (double)s.inUse;
    o["cached"] = (double)s.cached;
    o["peak"] = (double)s.peak;
    o["tensors"] = (double)e.table.live();
    return o;
  });
  define(env, exports, "trim", [](auto& info, Environment&) {
    for (auto* backend : backends()) backend->trim();
    return info.Env().Undefined();
  });
  define(env, exports, "resetPeak", [](auto& info, Environment&) {
    for (int device : {0, 1}) memoryStatistics(device).peak = memoryStatistics(device).inUse.load();
    return info.Env().Undefined();
  });
  define(env, exports, "beginCapture", [](auto& info, Environment& e) {
    backend((Device)(int)handleOf(info, 0)).beginCapture();
    e.recording = std::make_unique<Retained>();
    e.recordingSince = nextSerial();
    return info.Env().Undefined();
  });
  define(env, exports, "endCapture", [](auto& info, Environment& e) -> Napi::Value {
    auto& on = backend((Device)(int)handleOf(info, 0));
    auto recorded = std::move(e.recording);
    Graph* graph = on.endCapture(info[1].template As<Napi::Boolean>());
    if (graph && recorded) e.graphs[graph] = std::move(*recorded);
    if (!graph) return info.Env().Null();
    return Napi::External<Graph>::New(info.Env(), graph);
  });
  define(env, exports, "replay", [](auto& info, Environment&) {
    backend(Device::cuda).replay(info[0].template As<Napi::External<Graph>>().Data());
    return info.Env().Undefined();
  });
  define(env, exports, "destroyGraph", [](auto& info, Environment& e) {
    Graph* graph = info[0].template As<Napi::External<Graph>>().Data();
    backend(Device::cuda).destroyGraph(graph);
    e.graphs.erase(graph);
    return info.Env().Undefined();
  });
  define(env, exports, "mark", [](auto& info, Environment&) {
    return Napi::External<Mark>::New(info.Env(), backend((Device)(int)handleOf(info, 0)).mark());
  });
  define(env, exports, "elapsed", [](auto& info, Environment&) {
    auto at = [&](int i) { return info[i].template As<Napi::External<Mark>>().Data(); };
    return Napi::Number::New(info.Env(), backend((Device)(int)handleOf(info, 0)).elapsed(at(1), at(2)));
  });
  define(env, exports, "cudaReport", [](auto& info, Environment&) {
    CudaReport report = cudaReport();
    auto gpus = Napi::Array::New(info.Env());
    for (auto& gpu : report.gpus) {
      auto o = Napi::Object::New(info.Env());
      o["name"] = gpu.name;
      o["memory"] = (double)gpu.memory;
      o["capability"] = gpu.capability;
      gpus[gpus.Length()] = o;
    }
    auto o = Napi::Object::New(info.Env());
    o["gpus"] = gpus;
    o["reason"] = report.reason;
    o["driver"] = report.driver;
    return o;
  });
  define(env, exports, "cudaAvailableMemory",
         [](auto& info, Environment&) { return Napi::Number::New(info.Env(), (double)cudaAvailableMemory()); });
  define(env, exports, "threads",
         [](auto& info, Environment&) { return Napi::Number::New(info.Env(), cpu::threads()); });
  define(env, exports, "setThreads", [](auto& info, Environment&) {
    cpu::setThreads((int)handleOf(info, 0));
    return info.Env().Undefined();
  });
  define(env, exports, "instructionSet",
         [](auto& info, Environment&) { return Napi::String::New(info.Env(), cpuInstructionSet()); });
  define(env, exports, "blas", [](auto& info, Environment&) { return Napi::String::New(info.Env(), cpu::blasName()); });
#ifdef WITH_CUDA
  exports["builtWithCuda"] = true;
#else
  exports["builtWithCuda"] = false;
#endif

  // Added after the completions' own hook, so it runs before it: first the stream ends, then what it would call.
  env.AddCleanupHook(
      [](Environment* e) {
        for (auto* backend : backends()) backend->closeStream();
        e->table.clear();
        e->recording.reset();
        e->graphs.clear();
        for (auto* backend : backends()) backend->closeMemory();
        delete e;
      },
      instance);
  return exports;
}

}  // namespace

NODE_API_MODULE(polygrad, init)
