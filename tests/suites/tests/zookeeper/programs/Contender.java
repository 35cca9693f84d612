import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.nio.charset.StandardCharsets;
import java.util.Collection;
import java.util.concurrent.TimeUnit;
import org.apache.curator.framework.CuratorFramework;
import org.apache.curator.framework.CuratorFrameworkFactory;
import org.apache.curator.framework.recipes.locks.InterProcessMutex;
import org.apache.curator.framework.recipes.locks.InterProcessReadWriteLock;
import org.apache.curator.framework.recipes.locks.InterProcessSemaphoreV2;
import org.apache.curator.framework.recipes.locks.Lease;
import org.apache.curator.retry.ExponentialBackoffRetry;

/**
 * Takes a lock with one of Curator's recipes: `Contender SERVERS RECIPE PATH`, then on standard input a
 * line for each command, which is answered by a line.
 */
public class Contender {
  interface Claim {
    boolean acquire(long ms) throws Exception;

    void release() throws Exception;

    Collection<String> participants() throws Exception;
  }

  static Claim of(InterProcessMutex mutex) {
    return new Claim() {
      public boolean acquire(long ms) throws Exception {
        return mutex.acquire(ms, TimeUnit.MILLISECONDS);
      }

      public void release() throws Exception {
        mutex.release();
      }

      public Collection<String> participants() throws Exception {
        return mutex.getParticipantNodes();
      }
    };
  }

  static Claim of(InterProcessSemaphoreV2 semaphore) {
    return new Claim() {
      Lease lease;

      public boolean acquire(long ms) throws Exception {
        lease = semaphore.acquire(ms, TimeUnit.MILLISECONDS);
        return lease != null;
      }

      public void release() {
        semaphore.returnLease(lease);
      }

      public Collection<String> participants() throws Exception {
        return semaphore.getParticipantNodes();
      }
    };
  }

  static Claim claim(CuratorFramework client, String recipe, String path) {
    switch (recipe) {
      case "mutex":
        return of(new InterProcessMutex(client, path));
      case "read":
        return of(new InterProcessReadWriteLock(client, path).readLock());
      case "write":
        return of(new InterProcessReadWriteLock(client, path).writeLock());
      case "semaphore":
        return of(new InterProcessSemaphoreV2(client, path, 1));
      default:
        throw new IllegalArgumentException(recipe);
    }
  }

  static String answer(Claim claim, String[] command) throws Exception {
    switch (command[0]) {
      case "acquire":
        return claim.acquire(Long.parseLong(command[1])) ? "held" : "busy";
      case "release":
        claim.release();
        return "released";
      case "participants":
        return String.join(" ", claim.participants());
      default:
        throw new IllegalArgumentException(command[0]);
    }
  }

  public static void main(String[] arguments) throws Exception {
    try (CuratorFramework client =
        CuratorFrameworkFactory.newClient(arguments[0], new ExponentialBackoffRetry(100, 5))) {
      client.start();
      Claim claim = claim(client, arguments[1], arguments[2]);
      InputStreamReader in = new InputStreamReader(System.in, StandardCharsets.UTF_8);
      BufferedReader commands = new BufferedReader(in);
      for (String line = commands.readLine(); line != null; line = commands.readLine()) {
        System.out.println(answer(claim, line.split(" ")));
      }
    }
  }
}
