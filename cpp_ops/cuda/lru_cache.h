// Layer: CUDA kernels. A bounded map that forgets what was not asked for longest. Not thread-safe.
#ifndef MYLINEAR_CUDA_LRU_CACHE_H_
#define MYLINEAR_CUDA_LRU_CACHE_H_

#include <cstddef>
#include <list>
#include <unordered_map>
#include <utility>

namespace mylinear::cuda {

// `Value` is a shared pointer or the like: what `find` returned stays good when the entry is forgotten.
template <class Key, class Value, class Hash>
class LruCache {
 public:
  explicit LruCache(size_t capacity) : capacity_(capacity) {}

  // The value, which is then the one that was asked for last; a default Value if there is none.
  Value find(const Key& key) {
    const auto found = places_.find(key);
    if (found == places_.end()) return Value();
    entries_.splice(entries_.begin(), entries_, found->second);
    return found->second->second;
  }

  // Adds or replaces, and forgets the oldest beyond the capacity.
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
  std::list<std::pair<Key, Value>> entries_;  // the last asked for first
  std::unordered_map<Key, typename std::list<std::pair<Key, Value>>::iterator, Hash> places_;
};

}  // namespace mylinear::cuda

#endif  // MYLINEAR_CUDA_LRU_CACHE_H_
