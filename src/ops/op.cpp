#include "ops/op.h"

void addOp(const char* name, const std::string& params, const std::vector<std::string>& types,
           const std::string& result, void (*call)(const Arguments&, Results&)) {
  std::string out = std::string(name) + "(";
  size_t from = 1;
  for (size_t i = 0; i < types.size(); i++) {
    size_t to = from;  // the comma or bracket that ends this parameter, not one inside <>
    for (int depth = 0; params[to] != ')' && (depth || params[to] != ','); to++)
      depth += (params[to] == '<') - (params[to] == '>');
    size_t space = params.find_last_of(" &", to - 1);
    out += (i ? ", " : "") + params.substr(space + 1, to - space - 1) + ": " + types[i];
    from = to + 1;
  }
  ops()[name] = {out + "): " + result, call};
}

void throwCount(const char* name, int expected, int got) {
  throwError({name, ": expects ", expected, " arguments, got ", got}, "ERR_INVALID");
}
