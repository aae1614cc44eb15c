// polygrad/train: runs described by a RUN.json, and the loop.
export {
  applySettings,
  ConfigError,
  type DataConfig,
  type RunConfig,
  readRunConfig,
  runConfig,
  type TrainConfig,
  trainConfig,
} from './config.ts'
export { countParameters, type Estimate, estimate, flopsPerToken, type ParameterCounts } from './estimate.ts'
export { type Evaluation, evaluate } from './evaluate.ts'
export { NonFiniteError, type TrainEvent } from './events.ts'
export {
  cutMetrics,
  MetricsWriter,
  metricsLine,
  readMetrics,
  readSamples,
  type Sample,
  type StepMetrics,
} from './metrics.ts'
export { loadState, type Progress, type RunState, readRun, saveState } from './state.ts'
export { type StepResult, TrainStep, type TrainStepOptions } from './step.ts'
export { Trainer, type TrainerOptions } from './trainer.ts'
