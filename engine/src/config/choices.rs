//! The choices that are one word each; a policy's are in [`super::policies`].

use crate::choice::choice;

choice! {
    /// The home of a sequence's keys and values.
    AllocatorKind {
        /// One extent per sequence, reserved when it is admitted (Orca, FasterTransformer).
        Contiguous = "contiguous",
        /// Blocks of fixed size, taken as the sequence grows (PagedAttention).
        Paged = "paged",
    }
}
choice! {
    /// The slots that a contiguous allocator reserves for a sequence.
    Reserve {
        /// The longest sequence the deployment accepts.
        Max = "max",
        /// The prompt plus the output rounded up to a power of two (needs the output length, or its limit).
        Pow2 = "pow2",
        /// Exactly prompt plus output: a bound no real system reaches.
        Oracle = "oracle",
        /// The next power of two, moved to an extent twice as large whenever it is full.
        Doubling = "doubling",
    }
}
choice! {
    /// The order of admission.
    QueueOrder {
        /// First come, first served.
        Fcfs = "fcfs",
        /// Highest priority first, then first come.
        Priority = "priority",
        /// Fewest tokens to compute first.
        ShortestPrefill = "shortest-prefill",
        /// Longest cached prefix first, as found when the request joined the queue.
        LongestPrefix = "longest-prefix",
    }
}
choice! {
    /// The sequence that gives way when KV memory runs out.
    Victim {
        /// The sequence admitted last.
        Last = "last",
        /// The lowest priority, then the one admitted last.
        Priority = "priority",
        /// The one that loses the least computed work.
        LeastComputed = "least-computed",
    }
}
choice! {
    /// The part of a prompt's KV memory that is taken when it is admitted.
    PromptKv {
        /// All of it (Sarathi-Serve; vLLM V1 checks for as much before it starts).
        Whole = "whole",
        /// Only what the first chunk needs, the rest chunk by chunk.
        Chunk = "chunk",
    }
}
choice! {
    /// Number format of cached keys and values.
    KvDtype {
        /// Two bytes an element.
        Bf16 = "bf16",
        /// One byte an element: twice the slots, at some cost in accuracy.
        Fp8 = "fp8",
    }
}
choice! {
    /// The choice of a replica for a request.
    RouterKind {
        /// Each in turn.
        RoundRobin = "round-robin",
        /// The one with the fewest tokens still to compute.
        LeastLoaded = "least-loaded",
        /// The one that served the same prompt prefix before, unless it is overloaded.
        PrefixAffine = "prefix-affine",
    }
}
