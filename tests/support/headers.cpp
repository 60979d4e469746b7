// Only here so that the precompiled headers of the tests belong to a target.
