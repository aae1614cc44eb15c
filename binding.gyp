{
  # node-gyp is only the door that `npm rebuild` knocks on; CMakeLists.txt is the one list of sources and flags.
  'targets': [{
    'target_name': 'polygrad',
    'type': 'none',
    'actions': [{
      'action_name': 'cmake',
      'inputs': ['CMakeLists.txt'],
      'outputs': ['<(PRODUCT_DIR)/polygrad.node'],
      'action': ['node', '<(module_root_dir)/scripts/build.mjs'],
    }],
  }],
}
