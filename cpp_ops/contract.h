// Layer: contract. The constants of ort_ops/contract.py for C++; a test fails if the two differ.
#ifndef MYLINEAR_CONTRACT_H_
#define MYLINEAR_CONTRACT_H_

namespace mylinear::contract {

inline constexpr char kDomain[] = "mylinear";
inline constexpr char kName[] = "MYLINEAR";
inline constexpr int kSinceVersion = 1;

inline constexpr int kNumInputs = 3;    // X, W, B
inline constexpr int kNumRequired = 2;  // B is optional
inline constexpr int kNumOutputs = 1;   // Y

// The words for inputs and output in messages.
inline constexpr char kX[] = "x";
inline constexpr char kWeight[] = "weight";
inline constexpr char kBias[] = "bias";
inline constexpr char kY[] = "y";
inline constexpr char kElementTypeRule[] = "float64, float32, float16 or bfloat16";

}  // namespace mylinear::contract

#endif  // MYLINEAR_CONTRACT_H_
