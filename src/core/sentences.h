#pragma once
// What is said of values that only a kernel sees, once it has run: both backends say it with these words.
#include <cstdint>
#include <string>

namespace sentence {
inline constexpr const char* vocabulary = "{op}: ids[{at}] is {value}, but the vocabulary has {limit}";
inline constexpr const char* indexOnAxis = "{op}: index[{at}] is {value}, but the axis has {limit}";
inline constexpr const char* idOnAxis = "{op}: ids[{at}] is {value}, but the axis has {limit}";
inline constexpr const char* idOfClasses = "{op}: ids[{at}] is {value}, but there are {limit} classes";
inline constexpr const char* targetOfClasses = "{op}: targets[{at}] is {value}, but there are {limit} classes";
inline constexpr const char* expert = "{op}: experts[{at}] is {value}, but there are {limit} experts";
inline constexpr const char* orderOnce =  // limit: the last
    "{op}: order[{at}] is {value}, but order should hold each number from 0 to {limit} once";
inline constexpr const char* orderInRange = "{op}: order[{at}] is {value}, but should be from 0 to {limit}";
inline constexpr const char* offsetsOfRows =  // at: the first, value: the last
    "{op}: offsets should rise from 0 to the {limit} rows of x, but go from {at} to {value}";
inline constexpr const char* offsetsFall = "{op}: offsets[{at}] is {value}, but the one before it is {limit}";
inline constexpr const char* offsetsRange =  // at: the first, value: the last
    "{op}: offsets run from {at} to {value}, but should run from 0 to the number of rows, {limit}";
}  // namespace sentence

// The sentence with its gaps filled in.
std::string filled(const char* sentence, const char* op, int64_t at, int64_t value, int64_t limit);
