// Before the tests of a file: which device they make their tensors on. POLYGRAD_TEST_DEVICE=cuda asks for the GPU.
import { type Device, setDefaultDevice } from '../lib/index.ts'

const asked = process.env.POLYGRAD_TEST_DEVICE
if (asked) setDefaultDevice(asked as Device)
