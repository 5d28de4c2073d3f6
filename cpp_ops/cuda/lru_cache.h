// Layer: CUDA kernels. A bounded map that drops the least recently used entry. Not thread-safe.
#ifndef MYLINEAR_CUDA_LRU_CACHE_H_
#define MYLINEAR_CUDA_LRU_CACHE_H_

#include <cstddef>
#include <list>
#include <unordered_map>
#include <utility>

namespace mylinear::cuda {

// `Value` is a shared pointer or the like, so that a value stays valid when its entry is dropped.
template <class Key, class Value, class Hash>
class LruCache {
 public:
  explicit LruCache(size_t capacity) : capacity_(capacity) {}

  // Returns the value, now the most recently used; a default Value if there is none.
  Value find(const Key& key) {
    const auto found = places_.find(key);
    if (found == places_.end()) return Value();
    entries_.splice(entries_.begin(), entries_, found->second);
    return found->second->second;
  }

  // Adds or replaces an entry, and drops the oldest beyond the capacity.
  void put(const Key& key, Value value) {
    const auto found = places_.find(key);
    if (found != places_.end()) {
      found->second->second = std::move(value);
      entries_.splice(entries_.begin(), entries_, found->second);
      return;
    }
    entries_.emplace_front(key, std::move(value));
    try {
      places_[key] = entries_.begin();
    } catch (...) {
      entries_.pop_front();
      throw;
    }
    if (entries_.size() > capacity_) {
      places_.erase(entries_.back().first);
      entries_.pop_back();
    }
  }

  size_t size() const { return entries_.size(); }

 private:
  size_t capacity_;
  std::list<std::pair<Key, Value>> entries_;  // the most recently used first
  std::unordered_map<Key, typename std::list<std::pair<Key, Value>>::iterator, Hash> places_;
};

}  // namespace mylinear::cuda

#endif  // MYLINEAR_CUDA_LRU_CACHE_H_
