// Before the tests of a file: which device they make their tensors on. POLYGRAD_TEST_DEVICE=cuda asks for the GPU, or for
// what stands in for it; where there is none, every test is skipped and says why.
import { beforeEach } from 'vitest'
import { type Device, devices, setDefaultDevice } from '../lib/index.ts'

const asked = process.env.POLYGRAD_TEST_DEVICE
const { cuda } = devices()
if (asked?.startsWith('cuda') && !cuda.available && !process.env.POLYGRAD_NATIVE_PATH)
  beforeEach(({ skip }) => skip(`no CUDA device: ${cuda.reason}`))
else if (asked) setDefaultDevice(asked as Device)
