#pragma once

// Everything public. Executors other than the built-in ones and the reference kernels are not in here.

#include <mox/compose/repeat.hpp>
#include <mox/compose/residual.hpp>
#include <mox/compose/signals.hpp>
#include <mox/compose/stack.hpp>
#include <mox/core/buffer.hpp>
#include <mox/core/coefficient.hpp>
#include <mox/core/config.hpp>
#include <mox/core/error.hpp>
#include <mox/core/leaves.hpp>
#include <mox/core/random.hpp>
#include <mox/core/view.hpp>
#include <mox/exec/executor.hpp>
#include <mox/exec/thread_pool.hpp>
#include <mox/fwd.hpp>
#include <mox/interop/eigen.hpp>
#include <mox/layer/attention.hpp>
#include <mox/layer/depth.hpp>
#include <mox/layer/embedding.hpp>
#include <mox/layer/ffn.hpp>
#include <mox/layer/linear.hpp>
#include <mox/layer/moe.hpp>
#include <mox/layer/norm.hpp>
#include <mox/model/describe.hpp>
#include <mox/model/params.hpp>
#include <mox/model/run.hpp>
#include <mox/model/stream.hpp>
#include <mox/model/tape.hpp>
#include <mox/train/adamw.hpp>
#include <mox/train/clip.hpp>
#include <mox/train/gradcheck.hpp>
#include <mox/train/loss.hpp>
#include <mox/train/schedule.hpp>
#include <mox/version.hpp>
