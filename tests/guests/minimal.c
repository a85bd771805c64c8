/* The smallest plugin there is: a manifest and nothing else. It imports no host function. */
#include "isoplug.h"

IP_MANIFEST({
    "id": "test.minimal", "name": "Minimal", "version": "1.0.0", "description": "Test guest", "capabilities": []
})
